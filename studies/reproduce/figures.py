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
    makers = dict(table=panels, bars=bars, grid=heat_maps, profile=profiles)
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


def bars(experiment: Experiment, results: Results, floor: dict[str, Any], plt: Any) -> Any:
    """Bars of the first three figures, the baseline a red line as in the supplement's figure 2; seeds are dots."""
    columns = experiment.columns[:3]
    arms = [arm for arm in experiment.arms if arm.name != experiment.baseline]
    figure, axes = plt.subplots(1, len(columns), figsize=(4.2 * len(columns), 3.4), squeeze=False,
                                layout='constrained')
    for axis, column in zip(axes.flat, columns):
        shown = []
        for x, arm in enumerate(arms):
            values = [value * column.scale for value in values_of(results, arm.name, column).values()]
            if values:
                axis.bar(x, np.mean(values), width=0.65, color='C0', alpha=0.55)
                axis.plot([x] * len(values), values, 'o', markersize=4, color='C0')
            shown += values
        base = [value * column.scale for value in values_of(results, experiment.baseline, column).values()]
        if base:
            axis.axhline(np.mean(base), color='C3', linewidth=1.2,
                         label=experiment.arm(experiment.baseline).title)
            axis.axhspan(min(base), max(base), color='C3', alpha=0.12, linewidth=0)
            axis.legend(fontsize=8)
        shown += base
        if shown:
            # Bars that do not begin at zero: the differences are small, and the axis says so.
            margin = 0.15 * (max(shown) - min(shown)) or 0.05 * abs(max(shown)) or 1.0
            axis.set_ylim(min(shown) - 2 * margin, max(shown) + margin)
        axis.set_xticks(range(len(arms)), [arm.title for arm in arms], fontsize=8, rotation=20)
        axis.set_title(textwrap.fill(column.title, 36), fontsize=9)
        axis.tick_params(axis='y', labelsize=8)
    return figure


def heat_maps(experiment: Experiment, results: Results, floor: dict[str, Any], plt: Any) -> Any:
    """The first three figures over the grid, and the published table; each map has its own scale."""
    layout = experiment.layout
    maps = []
    for column in experiment.columns[:3]:
        cells = [[list(values_of(results, layout['arm'].format(row=row, column=c), column).values())
                  for c in layout['columns']] for row in layout['rows']]
        maps.append((column.title, [[np.mean(v) * column.scale if v else np.nan for v in row] for row in cells]))
    if 'published' in layout:
        maps.append((layout['published_title'], layout['published']))
    figure, axes = plt.subplots(1, len(maps), figsize=(3.7 * len(maps), 3.9), squeeze=False, layout='constrained')
    for axis, (title, grid) in zip(axes.flat, maps):
        grid = np.array(grid, float)
        axis.imshow(np.ma.masked_invalid(grid), cmap='viridis_r')
        middle = np.nanmean(grid[[0, -1]]) if np.isfinite(grid).any() else 0.0
        for (i, j), value in np.ndenumerate(grid):
            if np.isfinite(value):
                axis.text(j, i, f'{value:.3g}', ha='center', va='center', fontsize=7,
                          color='white' if value > middle else 'black')
        axis.set_xticks(range(len(layout['columns'])), layout['columns'], fontsize=8)
        axis.set_yticks(range(len(layout['rows'])), layout['rows'], fontsize=8)
        axis.set_xlabel(layout['column_title'], fontsize=8)
        axis.set_ylabel(layout['row_title'], fontsize=8)
        axis.set_title(title, fontsize=8)
    return figure


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
