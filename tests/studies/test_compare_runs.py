import json

import pytest


def run(folder, config, seed, **final):
    folder.mkdir()
    (folder / 'metrics.json').write_text(json.dumps(dict(
        config=f'/somewhere/configs/{config}.py', seed=seed, iterations=30, final=final, untrained={},
        real_against_real=dict(fd=0.5))))
    return folder


def test_mean_and_spread_by_hand(tmp_path, run_tool):
    runs = [run(tmp_path / 'a', 'sd/x', 0, fd=1.0), run(tmp_path / 'b', 'sd/x', 1, fd=3.0),
            run(tmp_path / 'c', 'lite_ldm/x', 0, fd=5.0)]
    done = run_tool('analysis_tools/compare_runs.py', *runs, '--metrics', 'fd', '--json', tmp_path / 'out.json')
    assert '| `sd/x` | 30 | 2 | 2 ± 1.4 |' in done.stdout
    assert '| `lite_ldm/x` | 30 | 1 | 5 |' in done.stdout
    assert '| real against real | | | 0.5 |' in done.stdout
    result = json.loads((tmp_path / 'out.json').read_text())
    assert result['sd/x']['fd'] == dict(mean=2.0, std=pytest.approx(2**0.5), values=[1.0, 3.0])


def test_what_is_wrong_is_named(tmp_path, run_tool):
    first = run(tmp_path / 'a', 'sd/x', 0, fd=1.0)
    again = run(tmp_path / 'b', 'sd/x', 0, fd=2.0)
    assert 'seed 0' in run_tool('analysis_tools/compare_runs.py', first, again, status=2).stderr
    assert "no 'swd'" in run_tool('analysis_tools/compare_runs.py', first, '--metrics', 'swd', status=2).stderr
    assert 'has not ended' in run_tool('analysis_tools/compare_runs.py', tmp_path / 'c', status=2).stderr
