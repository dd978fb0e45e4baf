"""A calibration as one HTML page that needs nothing but itself."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from slimdiff.calibration.plan import FULL
from slimdiff.calibration.run import Outcome
from slimdiff.evaluation.cost import human
from slimdiff.evaluation.page import figure_uri, write_page
from slimdiff.tables import text_table

COLOURS = ('#1f4e79', '#d9534f', '#f0ad4e', '#5cb85c', '#8064a2', '#46b8da', '#7f7f7f', '#c49c94')


def in_unit(value: float, unit: str) -> str:
    """A cost for people."""
    return f'{human(value)} MACs' if unit == 'macs' else f'{value:.4g} ms'


def rows_of(outcome: Outcome) -> list[tuple[str, ...]]:
    """A row for each finalist, below a header."""
    header = ('plan', 'cost', 'of the full network', 'predicted', 'divergence')
    return [header, *((f.label, in_unit(f.cost, outcome.unit), f'{f.cost / outcome.full_cost:.1%}',
                       f'{f.predicted:.4g}', f'{f.divergence:.4g}') for f in outcome.finalists)]


def summary(outcome: Outcome) -> str:
    """What the command prints."""
    header, *rows = rows_of(outcome)
    rank = 'of too few finalists to say' if outcome.correlation is None else f'{outcome.correlation:.2f}'
    return (f'{text_table(header, rows)}\n'
            f'rank correlation of predicted error and divergence: {rank}\n'
            f'chosen: {outcome.finalists[0].label}: {outcome.plan.describe()}\n'
            f'calibration took the equivalent of {outcome.runs:.1f} samplings of the full network')


def colours_of(outcome: Outcome) -> dict[str, str]:
    """Action -> colour, the same in the figure and in the plan."""
    return dict(zip(outcome.options, itertools.cycle(COLOURS)))


def figure_of(outcome: Outcome) -> Figure:
    """Divergence against cost, and how sensitive each step is to each action."""
    figure = Figure(figsize=(11, 4), layout='constrained')
    left, right = figure.subplots(1, 2)
    front, full = outcome.frontier, outcome.full_cost
    shown = front.errors > 0
    left.step(front.costs[shown] / full, front.errors[shown], where='post', color='#9bb8d3', label='additive optimum')
    left.plot([f.cost / full for f in outcome.finalists], [f.divergence for f in outcome.finalists], 'o',
              color='#1f4e79', label='judged')
    best = outcome.finalists[0]
    left.plot(best.cost / full, best.divergence, '*', color='#e08e0b', markersize=14, label='chosen')
    left.set(yscale='log', xlabel='cost, full network = 1', ylabel='divergence from the full network')
    colours = colours_of(outcome)
    for name, option in outcome.options.items():
        values = np.where(np.isfinite(option.error[:, 0]) & (option.error[:, 0] > 0), option.error[:, 0], np.nan)
        if name != FULL:
            right.plot(values, color=colours[name], label=name)
    right.set(yscale='log', xlabel='step, the noisiest first', ylabel='what the action there adds')
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def write_report(outcome: Outcome, path: str | Path, title: str) -> None:
    """Write the page, whole or not at all."""
    *_, correlation, _, cost = summary(outcome).splitlines()
    write_page('calibration/report.html.j2', path, title=title, plan=outcome.plan.actions,
               colours=colours_of(outcome), rows=rows_of(outcome), figure=figure_uri(figure_of(outcome)),
               notes=[note[:1].upper() + note[1:] for note in (correlation, cost)])
