"""An experiment of tiny runs, through the command line: stopped, gone on with, adopted, stale, reported."""

import json
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from studies.reproduce.command import main

ROOT = Path(__file__).resolve().parents[3]
CONFIG = f'''
_base_ = '{ROOT}/configs/lite_ldm/photo_patches_16px.py'
model = dict(unet=dict(stages=[dict(channels=4), dict(channels=4, downsample=False)], mid_heads=1))
train_cfg = dict(max_iters=3, val_interval=3)
train_dataloader = dict(batch_size=2)
default_hooks = dict(log=dict(interval=1), samples=None, spectra=None)
val_cfg = dict(num_images=8, num_real=32, sampling=dict(num_steps=2))
val_evaluator = [dict(type='BandwiseDenoisingError', num_images=8), dict(type='LaplacianSWD')]
'''


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    """A folder with an experiment of a long run and a short one; the first test stops it, goes on, finishes it."""
    folder = tmp_path_factory.mktemp('study')
    (folder / 'tiny.py').write_text(CONFIG)
    long = {'train_cfg.max_iters': 150, 'train_cfg.val_interval': 150}
    arms = [dict(name='long', config='tiny.py', options=long), dict(name='short', config='tiny.py')]
    columns = [dict(title='error', figures={'denoise/total': 1}), dict(title='SWD', figures={'swd/mean': 1})]
    (folder / 'study.json').write_text(json.dumps(dict(name='study', title='S', arms=arms, columns=columns,
                                                       baseline='short')))
    return folder


def test_stop_and_go_on(study, tiny_process, monkeypatch, capsys):
    log = study / 'work_dirs/reproduce/study/long-seed0.log'
    command = [sys.executable, str(ROOT / 'tools/analysis_tools/reproduce.py'), 'study.json', '--jobs', '1']
    process = tiny_process(command=command, cwd=study)
    deadline = time.monotonic() + 200
    while not (log.exists() and '/150]' in log.read_text()):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 130, output
    assert 'Go on with the same command' in output and 'study.json --jobs 1' in output and 'Traceback' not in output
    assert list(log.with_suffix('').glob('iter_*.pth')) and 'Stopped after' in log.read_text()
    assert '0 of 2 runs' in (study / 'docs/en/experiments/_generated/study.md').read_text()

    monkeypatch.chdir(study)
    assert main(['study.json', '--jobs', '2']) == 0
    out = capsys.readouterr().out
    assert '1 begun, 1 missing' in out and '2 of 2 runs have results' in out
    assert log.read_text().count('[  1/150]') == 1  # not from the beginning
    found = json.loads((study / 'benchmarks/results/reproduce/study/long-seed0.json').read_text())
    report = json.loads((log.with_suffix('') / 'metrics.json').read_text())
    assert found['final'] == report['final'] and found['iterations'] == 150 and found['seed'] == 0
    assert found['cost']['params'] > 0 and found['machine']['cores'] and found['versions']['torch']
    assert found['command'].startswith('python tools/train.py tiny.py --work-dir work_dirs/reproduce/study/long-seed0')
    assert found['options']['train_cfg.max_iters'] == 150 and not found['adopted']
    page = (study / 'docs/en/experiments/_generated/study.md').read_text()
    assert 'all 2 runs' in page and 'real against real' in page
    assert (study / 'docs/en/_static/study.png').exists()


@pytest.fixture
def copy(study, tmp_path, monkeypatch):
    """The finished study, to be changed."""
    if not (study / 'benchmarks').exists():
        pytest.skip('the study was not trained')
    for name in ('tiny.py', 'study.json'):
        shutil.copy(study / name, tmp_path)
    for name in ('benchmarks', 'work_dirs'):
        shutil.copytree(study / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def states(capsys, *arguments):
    capsys.readouterr()
    assert main(['study.json', '--list', *arguments]) == 0
    return {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()}


def test_what_is_done_is_not_done_again(copy, capsys):
    shutil.rmtree(copy / 'work_dirs')
    assert set(states(capsys).values()) == {'done'}
    assert main(['study.json']) == 0 and not (copy / 'work_dirs').exists()
    assert 'all 2 runs' in (copy / 'docs/en/experiments/_generated/study.md').read_text()
    # A trained run whose result was not written up needs no training.
    shutil.rmtree(copy / 'benchmarks')
    assert set(states(capsys, '--arms', 'short', '--seeds', '0').values()) == {'missing'}


def test_stale_results_are_told_and_redone_on_request(copy, capsys):
    (copy / 'tiny.py').write_text(CONFIG.replace('num_images=8, num_real', 'num_images=10, num_real'))
    assert set(states(capsys).values()) == {'stale'}
    assert main(['study.json']) == 1
    assert 'val_cfg.num_images: 8 -> 10' in capsys.readouterr().out
    assert '†' in (copy / 'docs/en/experiments/_generated/study.md').read_text()
    assert set(states(capsys, '--redo').values()) == {'redo'}
    shutil.rmtree(copy / 'benchmarks')
    assert set(states(capsys, '--redo').values()) == {'missing'} and set(states(capsys).values()) == {'blocked'}


def test_adoption(copy, capsys):
    shutil.move(copy / 'work_dirs/reproduce/study', copy / 'by_hand')
    shutil.rmtree(copy / 'benchmarks')
    (copy / 'by_hand/long-seed0').rename(copy / 'by_hand/long')  # an arm of one seed needs none in its name
    assert states(capsys, '--adopt', 'by_hand') == {'long-seed0': 'collect', 'short-seed0': 'collect'}
    (copy / 'by_hand/short-seed0/metrics.json').unlink()
    assert states(capsys, '--adopt', 'by_hand')['short-seed0'] == 'begun'
    assert main(['study.json', '--adopt', 'by_hand', '--arms', 'long']) == 0
    found = json.loads((copy / 'benchmarks/results/reproduce/study/long-seed0.json').read_text())
    assert found['adopted'] and found['commit'] is None and 'by_hand' not in found['command']


def test_another_run_is_not_adopted(copy, capsys):
    shutil.move(copy / 'work_dirs/reproduce/study', copy / 'by_hand')
    shutil.rmtree(copy / 'benchmarks')
    config = copy / 'by_hand/short-seed0/tiny.py'
    text = config.read_text()
    for old, new, why in [('batch_size=2', 'batch_size=3', 'another config: train_dataloader.batch_size: 3 -> 2'),
                          ('seed=0', 'seed=1', 'has seed 1, not 0')]:
        assert old in text
        config.write_text(text.replace(old, new))
        capsys.readouterr()
        assert main(['study.json', '--list', '--adopt', 'by_hand', '--arms', 'short']) == 0
        out = capsys.readouterr().out
        assert 'missing' in out and 'not adopted: by_hand/short-seed0' in out and why in out


def test_a_work_dir_of_another_config_is_not_touched(copy, capsys):
    shutil.rmtree(copy / 'benchmarks')
    (copy / 'tiny.py').write_text(CONFIG.replace('batch_size=2', 'batch_size=3'))
    before = sorted(p.name for p in (copy / 'work_dirs/reproduce/study/short-seed0').iterdir())
    assert main(['study.json', '--arms', 'short', '--seeds', '0']) == 1
    assert '--redo' in capsys.readouterr().out
    assert sorted(p.name for p in (copy / 'work_dirs/reproduce/study/short-seed0').iterdir()) == before


def test_the_list_of_experiments_and_bad_input(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    assert 'sd_central' in capsys.readouterr().out
    assert main(['sd_centrl']) == 2
    assert "Did you mean 'sd_central'?" in capsys.readouterr().err
    assert main(['skips', '--seeds', '9']) == 2
    assert 'no run with --seeds 9' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(['skips', '--jobs', '0'])
    assert not list(tmp_path.iterdir())
