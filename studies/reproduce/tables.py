"""The Markdown of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from slimdiff.tables import markdown_table
from studies.reproduce.experiment import Arm, Column, Experiment
from studies.reproduce.statistics import Paired, paired, summarise

#: arm -> seed -> result
Results = Mapping[str, Mapping[int, Mapping[str, Any]]]


def values_of(results: Results, arm: str, column: Column) -> dict[int, float]:
    """``{seed: figure}`` of the runs that measured it."""
    found = {seed: column.value(result['final']) for seed, result in results.get(arm, {}).items()}
    return {seed: value for seed, value in found.items() if value is not None}


def mean_and_spread(column: Column, values: Sequence[float]) -> str:
    """``12.3 ± 0.4``, the mean over seeds and their sample standard deviation."""
    found = summarise(list(values))
    if found is None:
        return '-'
    return column.shown(found.mean) + ('' if found.std is None else f' ± {column.shown(found.std, 2)}')


def difference(column: Column, found: Paired | None) -> str:
    """``-0.9 (-2.4 %) [-1.2, -0.6], p = 0.003``, as far as the number of pairs allows."""
    if found is None:
        return '-'
    text = f'{found.mean * column.scale:+.3g}'
    if column.better == 'lower' and found.base:
        text += f' ({100 * found.mean / found.base:+.1f} %)'
    if found.low is not None:
        text += f' [{found.low * column.scale:+.3g}, {found.high * column.scale:+.3g}]'
    if found.p is not None:
        text += f', p = {found.p:.2g}'
    return text


def arm_name(arm: Arm, stale: Mapping[str, str]) -> str:
    return arm.title + (' †' if any(arm.run_name(seed) in stale for seed in arm.seeds) else '')


def main_table(experiment: Experiment, results: Results, floor: Mapping[str, Mapping[str, float]],
               stale: Mapping[str, str]) -> str:
    """Arms by columns, with what they cost, and real against real below."""
    rows = []
    for arm in experiment.arms:
        runs = list(results.get(arm.name, {}).values())
        if not runs:
            rows.append([arm_name(arm, stale), f'0 of {len(arm.seeds)}', *['-'] * (3 + len(experiment.columns))])
            continue
        cost = runs[0]['cost']
        seeds = str(len(runs)) if len(runs) == len(arm.seeds) else f'{len(runs)} of {len(arm.seeds)}'
        rows.append([arm_name(arm, stale), seeds, f'{runs[0]["iterations"]:,}', f'{cost["macs_published"] / 1e6:.2f} M',
                     f'{cost["params"] / 1e3:.0f} k',
                     *(mean_and_spread(column, values_of(results, arm.name, column).values())
                       for column in experiment.columns)])
    if floor:
        means, stds = ({name: entry[key] for name, entry in floor.items()} for key in ('mean', 'std'))
        cells = [f'{column.shown(column.value(means))} ± {column.shown(column.value(stds), 2)}'
                 if column.value(means) is not None else '-' for column in experiment.columns]
        rows.append(['real against real', '', '', '', '', *cells])
    titles = [column.title for column in experiment.columns]
    return markdown_table(['', 'seeds', 'iterations', 'MACs', 'parameters', *titles], rows)


def paired_table(experiment: Experiment, results: Results, stale: Mapping[str, str]) -> str:
    """Differences from the baseline over common seeds; empty if there are none.

    Arms in ``layout['apart']`` are other problems, whose differences would say nothing.
    """
    rows = []
    for arm in experiment.arms:
        if arm.name == experiment.baseline or arm.name in experiment.layout.get('apart', ()):
            continue
        cells = [paired(values_of(results, arm.name, column), values_of(results, experiment.baseline, column))
                 for column in experiment.columns]
        if any(cells):
            n = max(cell.n for cell in cells if cell)
            rows.append([arm_name(arm, stale), str(n), *map(difference, experiment.columns, cells)])
    return markdown_table(['', 'pairs', *(column.title for column in experiment.columns)], rows) if rows else ''


def profile_bins(experiment: Experiment, arm: str) -> list[str]:
    """Names of an arm's bins of timesteps, as its figures have them, from little noise to much."""
    edges = experiment.layout.get('edges', {}).get(arm, (0, 100, 300, 600, 900, 1000))
    return [f't{start}-{stop}' for start, stop in pairwise(edges)]


def profile_column(bin_name: str, band: str) -> Column:
    return Column(f'{bin_name} {band}', {f'denoise/{bin_name}/{band}': 1.0}, scale=1000)


BANDS = ('low', 'mid', 'top')


def profile_table(experiment: Experiment, results: Results) -> str:
    """Error of the baseline by bin and band, and by how much each other arm differs."""
    base = experiment.arm(experiment.baseline)
    others = [arm for arm in experiment.arms if arm is not base and results.get(arm.name)]
    if not results.get(base.name):
        return ''
    rows = []
    bins = [profile_bins(experiment, arm.name) for arm in [base, *others]]
    for names in zip(*bins):
        for band in BANDS:
            columns = [profile_column(name, band) for name in names]
            baseline = values_of(results, base.name, columns[0])
            cells = [paired(values_of(results, arm.name, column), baseline) for arm, column in zip(others, columns[1:])]
            rows.append([names[0], band, mean_and_spread(columns[0], baseline.values()),
                         *map(difference, columns[1:], cells)])
    return markdown_table(['timesteps', 'band', f'{base.title} (error x 1000)', *(arm.title for arm in others)], rows)
