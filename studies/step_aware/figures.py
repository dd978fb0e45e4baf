"""The picture of a comparison: the first figure of the tables against MACs, a panel for each sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from slimdiff.evaluation.figures import save_figure
from slimdiff.search.comparison.tables import columns_of
from studies.reproduce.statistics import summarise
from studies.step_aware.tables import rivals_of

MARKERS = 'osD^vP*Xph<>'


def plot_comparisons(comparisons: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Mean over the comparisons (training seeds), with their sample standard deviation as bars.

    Args:
        comparisons: contents of ``comparison.json``, one or more, of the same rivals.
        path: a PNG file, written whole or not at all.

    Raises:
        ValueError: they measured none of the figures that are shown.
    """
    samplers = list(dict.fromkeys(key for content in comparisons for key in content['samplers']))
    across = min(3, len(samplers))
    down = -(-len(samplers) // across)
    figure = Figure(figsize=(4.2 * across, 3.4 * down + 0.6), layout='constrained')
    axes = figure.subplots(down, across, squeeze=False).ravel()
    title, name, factor = columns_of(comparisons)[0]
    for axis, key in zip(axes, samplers):
        found = [content['samplers'][key] for content in comparisons if key in content['samplers']]
        for i, rival in enumerate(rivals_of(comparisons, key)):
            own = [row[rival] for row in found if rival in row and name in row[rival]['figures']]
            if not own:
                continue
            macs = summarise([row['macs'] / 1e6 for row in own])
            value = summarise([factor * row['figures'][name] for row in own])
            axis.errorbar(macs.mean, value.mean, yerr=value.std, fmt=MARKERS[i % len(MARKERS)], color=f'C{i % 10}',
                          markersize=6, capsize=3, label=rival)
        scheduler, _, steps = key.partition(':')
        axis.set_title(f'{scheduler.removesuffix("Scheduler")}, {steps} steps', fontsize=10, loc='left')
        axis.set(xlabel='M MACs an image', ylabel=title, xlim=(0, None))
        axis.grid(alpha=0.3)
    for axis in axes[len(samplers):]:
        axis.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=min(5, len(labels)), fontsize=9)
    save_figure(figure, path)
