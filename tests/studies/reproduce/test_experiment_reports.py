"""Reports from results that were made up."""

import itertools
import json
import re

import pytest

from studies.reproduce import Arm, Column, Experiment
from studies.reproduce.experiments import known_experiments
from studies.reproduce.figures import panels
from studies.reproduce.report import write_report
from studies.reproduce.tables import profile_bins

MACHINE = dict(cpu='Abacus', cores=2, threads=1)


def result(final, iterations=100):
    return dict(final=final, iterations=iterations, train_seconds=3600.0, machine=MACHINE,
                versions=dict(slimdiff='0.1.0', torch='2.9'), cost=dict(params=12_000, macs_published=5_990_000))


def small(report='table', **layout):
    return Experiment('x', 'X', [Arm('lite', 'l', seeds=range(2), label='Lite'), Arm('wg', 'w', seeds=range(2)),
                                 Arm('late', 'n')],
                      [Column('error (x 1000)', {'e': 1.0}, scale=1000), Column('sign', {'s': 1.0}, better='zero')],
                      'lite', report, layout)


def written(experiment, results, tmp_path, stale=None):
    page, figure = write_report(experiment, results, stale or {}, tmp_path / 'results', tmp_path / 'docs')
    return re.sub(' +', ' ', page.read_text()), figure


def row(text, start):
    return next(line for line in text.splitlines() if line.startswith(f'| {start} |'))


def test_tables_by_hand(tmp_path):
    (tmp_path / 'results/x').mkdir(parents=True)
    (tmp_path / 'results/x/real_against_real.json').write_text(json.dumps(dict(floor=dict(s=dict(mean=.25, std=.5)))))
    results = dict(lite={0: result(dict(e=.010, s=-.2)), 1: result(dict(e=.014, s=-.4))},
                   wg={0: result(dict(e=.009, s=-.1)), 1: result(dict(e=.011, s=-.1))}, late={})
    text, figure = written(small(), results, tmp_path)
    # sd of 10, 14 is 2.83; differences -1, -3: mean -2, t = -2 / 1 = -2, p = 1 - 2 / pi atan(2) = .295,
    # interval -2 +- 12.7062.
    assert row(text, 'Lite').startswith('| Lite | 2 | 100 | 5.99 M | 12 k | 12 ± 2.8 | -0.3 ± 0.14 |')
    assert row(text, 'late').startswith('| late | 0 of 1 | - |')
    assert row(text, 'real against real').endswith('| - | 0.25 ± 0.5 |')
    assert '| wg | 2 | -2 (-16.7 %) [-14.7, +10.7], p = 0.3 | +0.2 [' in text
    assert '4 of 5 runs: this is incomplete' in text and '4.0 hours' in text and 'Abacus, 2 cores' in text
    assert 'With two pairs (wg)' in text and 'nearly meaningless' in text and '(2 here)' in text
    assert 'reproduce.py x`' in text and '](../../_static/x.png)' in text
    assert 1000 < figure.stat().st_size < 150_000


def test_nothing_done_yet(tmp_path):
    text, figure = written(small(), dict(lite={}, wg={}, late={}), tmp_path)
    assert '0 of 5 runs' in text and 'png' not in text and figure is None


def test_complete_and_stale(tmp_path):
    results = {arm.name: {s: result(dict(e=.01 + s / 1000, s=0.1)) for s in arm.seeds} for arm in small().arms}
    text, _ = written(small(), results, tmp_path)
    assert 'all 5 runs' in text and '†' not in text
    text, _ = written(small(), results, tmp_path, {'wg-seed1': 'lr: 1 -> 2'})
    assert '| wg † |' in text and '- wg-seed1: lr: 1 -> 2' in text and '| Lite |' in text


def test_profile_by_hand(tmp_path):
    experiment = small('profile', edges=dict(lite=(0, 10, 20), wg=(0, 30, 40), late=(0, 10, 20)))
    assert profile_bins(experiment, 'wg') == ['t0-30', 't30-40']
    final = {name: dict(e=1.0, s=0.0) for name in ('lite', 'wg')}
    for name, value in dict(lite=0.1, wg=0.2).items():
        for i, bin_name in enumerate(profile_bins(experiment, name)):
            final[name] |= {f'denoise/{bin_name}/{band}': value * (1 + i) for band in ('low', 'mid', 'top')}
    text, figure = written(experiment, dict(lite={0: result(final['lite'])}, wg={0: result(final['wg'])}, late={}),
                           tmp_path)
    assert '| t0-10 | low | 100 | +100 (+100.0 %) |' in text and '| t10-20 | top | 200 | +200 (+100.0 %) |' in text
    assert figure.exists()


def test_numbers_on_an_axis_do_not_touch():
    from matplotlib import pyplot as plt
    experiment = Experiment('x', 'X', [Arm('a', 'c', seeds=range(2))],
                            [Column(title, {title: 1.0}) for title in ('wide', 'half', 'signed')], 'a')
    results = dict(a={0: result(dict(wide=53.3, half=1.0, signed=-0.5)),
                      1: result(dict(wide=69.6, half=28.0, signed=0.02))})
    figure = panels(experiment, results, {}, plt)
    figure.canvas.draw()
    for axis in figure.axes:
        boxes = [label.get_window_extent() for label in axis.get_xticklabels() if label.get_text()]
        assert len(boxes) > 1
        assert all(a.x1 + a.height < b.x0 for a, b in itertools.pairwise(boxes))
    plt.close(figure)


@pytest.mark.parametrize('name', sorted(known_experiments()))
@pytest.mark.parametrize('share', [1, 2])
def test_every_shipped_experiment_reports(name, share, tmp_path):
    """Whole, and with every second run missing; pictures stay small."""
    experiment = known_experiments()[name]
    results = {arm.name: {} for arm in experiment.arms}
    for number, (arm, seed) in enumerate(experiment.runs()):
        names = {figure for column in experiment.columns for figure in column.figures}
        names |= {f'denoise/{b}/{band}' for b in profile_bins(experiment, arm.name) for band in ('low', 'mid', 'top')}
        if number % share == 0:
            results[arm.name][seed] = result({key: 0.01 + 0.001 * number + 0.0001 * seed for key in names})
    text, figure = written(experiment, results, tmp_path)
    assert figure.stat().st_size < 150_000
    for line in re.findall(r'^\|.*\|$', text, re.M):
        assert 'nan' not in line and 'None' not in line
