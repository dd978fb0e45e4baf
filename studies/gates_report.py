"""Figure and table of gates over timesteps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from slimdiff.evaluation.figures import save_figure
from slimdiff.evaluation.gates import BANDS
from slimdiff.tables import markdown_table

COLORS = ('black', 'tab:orange', 'tab:green', 'tab:blue')
MEANINGS = ('cA: mean of the cell', 'cH: horizontal detail', 'cV: vertical detail', 'cD: diagonal detail')


def plot_gates(runs: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Write :func:`gates_figure` as a PNG file."""
    save_figure(gates_figure(runs), path)


def gates_figure(runs: Sequence[Mapping[str, Any]]) -> Figure:
    """One panel for each resampler: mean gate of the four bands against the timestep.

    Full lines on noised images, with a band of one standard deviation over them; dashed along sampling; thin ones
    are single training seeds.

    Args:
        runs: one for each checkpoint, ``dict(noised=..., sampling=...)`` of ``GateStatistics.describe()``.
    """
    names = list(runs[0]['noised']['gates'])
    columns = max(1, (len(names) + 1) // 2)
    figure = Figure(figsize=(4.2 * columns, 6.2), layout='constrained')
    axes = figure.subplots(2, columns, sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[len(names):]:
        axis.remove()
    for axis, name in zip(axes.flat, names):
        for source, style in (('noised', '-'), ('sampling', '--')):
            entries = [run[source]['gates'][name] for run in runs]
            times = runs[0][source]['timesteps']
            mean, _ = mean_over_runs(entries)
            spread = torch.tensor([entry['std_samples'] for entry in entries], dtype=torch.float64).mean(0)
            for band, color in enumerate(COLORS):
                axis.plot(times, mean[:, band], style, color=color,
                          label=MEANINGS[band] if source == 'noised' else None)
                if source == 'noised':
                    axis.fill_between(times, (mean - spread)[:, band], (mean + spread)[:, band], color=color,
                                      alpha=0.12, linewidth=0)
                    for entry in entries if len(entries) > 1 else ():
                        axis.plot(times, [row[band] for row in entry['mean']], color=color, linewidth=0.4)
        axis.set_title(name, fontsize=10)
        axis.grid(alpha=0.3)
    handles = axes[0, 0].get_legend_handles_labels()[0]
    handles += [Line2D([], [], color='gray', linestyle=style, label=label)
                for style, label in (('-', 'full: noised images'), ('--', 'dashed: while sampling'))]
    axes[0, 0].legend(handles=handles, fontsize=8)
    axes[0, 0].invert_xaxis()  # shared: noise on the left, image on the right
    figure.supxlabel('timestep, from noise to image')
    figure.supylabel('mean gate')
    return figure


def gates_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Markdown table: the gate of each band at the noisy end, in the middle and at the clean end of noised images.

    With several checkpoints, ± is the standard deviation over them.
    """
    times: list[int] = runs[0]['noised']['timesteps']
    picks = [0, len(times) // 2, len(times) - 1]

    def cells(mean: Tensor, spread: Tensor | None, band: int) -> list[str]:
        return [f'{mean[i, band]:.3f}' + ('' if spread is None else f' ± {spread[i, band]:.3f}') for i in picks]

    head = [f't = {times[i]}' for i in picks]
    rows = []
    for name in runs[0]['noised']['gates']:
        entries = [run['noised']['gates'][name] for run in runs]
        mean, spread = mean_over_runs(entries)
        inner = [torch.tensor([entry[key] for entry in entries], dtype=torch.float64).mean((0, 1))
                 for key in ('std_samples', 'std_channels')]
        for band, label in enumerate(BANDS):
            change = f'{mean[-1, band] - mean[0, band]:+.3f}'
            rows.append([name, label, *cells(mean, spread, band), change, *(f'{values[band]:.3f}' for values in inner)])
    return markdown_table(['resampler', 'band', *head, 'change', 'between images', 'between channels'], rows)


def gates_section(result: Mapping[str, Any]) -> str:
    """What the documentation includes: the table, and the command that made it."""
    runs = result['runs']
    checkpoints = ', '.join(f'`{run["checkpoint"]}`' for run in runs)
    return '\n'.join([
        gates_table(runs),
        f'{len(runs)} network(s) of `{result["config"]}`: {checkpoints}. {runs[0]["noised"]["samples"]} noised '
        f'validation images and {runs[0]["sampling"]["samples"]} generated ones for each.\n',
        f'Made by\n\n```text\n{result["command"]}\n```\n',
        f'on {result["machine"]}, PyTorch {result["versions"]["torch"]}.', ''])


def mean_over_runs(runs: Iterable[Mapping[str, Any]]) -> tuple[Tensor, Tensor | None]:
    """Mean of the runs' entries ``mean``, (T, 4), and their standard deviation over runs (None for one)."""
    values = torch.stack([torch.tensor(run['mean'], dtype=torch.float64) for run in runs])
    return values.mean(0), values.std(0) if len(values) > 1 else None
