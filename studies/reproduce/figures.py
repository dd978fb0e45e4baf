"""The picture of a report: one for each kind of experiment."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from slimdiff.evaluation.figures import save_figure
from studies.reproduce.experiment import Column, Experiment
from studies.reproduce.tables import BANDS, Results, profile_bins, profile_column, values_of


def draw(experiment: Experiment, results: Results, floor: dict[str, dict[str, float]], path: str | Path) -> None:
    """Draw what there is, at most 150 kB."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot as plt
    makers = dict(table=panels, profile=profiles)
    figure = makers[experiment.report](experiment, results, floor, plt)
    figure.suptitle(experiment.title, fontsize=11)
    # No date or version inside: the same results give the same file.
    save_figure(figure, path, dpi=85, metadata=dict(Software=None))
    plt.close(figure)


def panels(experiment: Experiment, results: Results, floor: dict[str, Any], plt: Any) -> Any:
    """A panel for each column: every seed a dot, the mean a bar with the spread over seeds."""
    columns = experiment.columns
    per_row = min(3, len(columns))
    rows = -(-len(columns) // per_row)
    size = (4.2 * per_row, 0.9 + (1.0 + 0.27 * len(experiment.arms)) * rows)
    figure, axes = plt.subplots(rows, per_row, figsize=size, squeeze=False, layout='constrained', sharey=True)
    for axis in axes.flat[len(columns):]:
        axis.remove()
    for axis, column in zip(axes.flat, columns):
        for y, arm in enumerate(experiment.arms):
            values = [value * column.scale for value in values_of(results, arm.name, column).values()]
            if not values:
                continue
            color = 'C7' if arm.name == experiment.baseline else 'C0'
            axis.plot(values, [y] * len(values), 'o', markersize=4, alpha=0.45, color=color)
            spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
            axis.errorbar(np.mean(values), y, xerr=spread or None, fmt='|', markersize=13, capsize=3, color=color)
        _reference_lines(axis.axvline, experiment, results, floor, column)
        axis.set_title(textwrap.fill(column.title, 36), fontsize=9)
        axis.tick_params(labelsize=8)
        axis.locator_params(axis='x', nbins=5)  # more labels than that touch
        axis.grid(axis='x', alpha=0.3)
    names = [arm.title for arm in experiment.arms]
    axes[0, 0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def _reference_lines(line: Any, experiment: Experiment, results: Results, floor: dict[str, Any],
                     column: Column) -> None:
    base = list(values_of(results, experiment.baseline, column).values())
    if base:
        line(np.mean(base) * column.scale, linestyle='--', linewidth=1, color='C7')
    real = column.value({name: entry['mean'] for name, entry in floor.items()})
    if real is not None:
        line(real * column.scale, linestyle=':', linewidth=1, color='C2')


def profiles(experiment: Experiment, results: Results, floor: dict[str, Any], plt: Any) -> Any:
    """Error by noise level, a column of panels a band; below, relative to the baseline, every seed a thin line."""
    figure, axes = plt.subplots(2, len(BANDS), figsize=(12.6, 5.6), sharex=True, layout='constrained',
                                height_ratios=[1.3, 1])
    ticks = profile_bins(experiment, experiment.baseline)
    for (above, below), band in zip(axes.T, BANDS):
        for i, arm in enumerate(experiment.arms):
            columns = [profile_column(name, band) for name in profile_bins(experiment, arm.name)]
            bases = [profile_column(name, band) for name in ticks]
            seeds = sorted(results.get(arm.name, {}))
            curves = {s: [c.value(results[arm.name][s]['final']) for c in columns] for s in seeds}
            curves = {s: np.array(curve, float) for s, curve in curves.items()}
            if not curves:
                continue
            above.plot(ticks, np.mean(list(curves.values()), 0) * 1000, 'o-', markersize=3, color=f'C{i}',
                       label=arm.title)
            for seed in set(seeds) & set(results.get(experiment.baseline, {})):
                final = results[experiment.baseline][seed]['final']
                base = np.array([c.value(final) for c in bases], float)
                below.plot(ticks, curves[seed] / base, '-', linewidth=0.9, alpha=0.7, color=f'C{i}')
        above.set_yscale('log')
        above.set_title(f'{band} frequencies: error x 1000', fontsize=9)
        below.set_title(f'relative to: {experiment.arm(experiment.baseline).title}, seed by seed', fontsize=9)
        below.set_xlabel(experiment.layout.get('level_title', 'timesteps'), fontsize=8)
        below.tick_params(axis='x', labelsize=7, rotation=30)
        for axis in (above, below):
            axis.tick_params(axis='y', labelsize=8)
            axis.grid(alpha=0.3)
        if above.lines:
            above.legend(fontsize=8)
    return figure
