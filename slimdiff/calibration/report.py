"""A calibration as one HTML page that needs nothing but itself."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from slimdiff.calibration.plan import FULL
from slimdiff.calibration.run import Outcome
from slimdiff.checkpoint import atomic_write
from slimdiff.evaluation.cost import human
from slimdiff.evaluation.figures import figure_uri
from slimdiff.tables import text_table

COLOURS = ('#1f4e79', '#d9534f', '#f0ad4e', '#5cb85c', '#8064a2', '#46b8da', '#7f7f7f', '#c49c94')
STYLE = ('body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}'
         'table{border-collapse:collapse}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:right}'
         'td:first-child,th:first-child{text-align:left}tr.chosen{background:#fff3d6}img,svg{max-width:100%}')


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
    for colour, (name, option) in zip(COLOURS, outcome.options.items()):
        values = np.where(np.isfinite(option.error[:, 0]) & (option.error[:, 0] > 0), option.error[:, 0], np.nan)
        if name != FULL:
            right.plot(values, color=colour, label=name)
    right.set(yscale='log', xlabel='step, the noisiest first', ylabel='what the action there adds')
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def strip(outcome: Outcome, width: int = 900) -> str:
    """The chosen plan as a row of boxes with a legend."""
    colour = dict(zip(outcome.options, COLOURS))
    size = width / len(outcome.plan.actions)
    boxes = ''.join(f'<rect x="{i * size:.1f}" y="0" width="{size:.1f}" height="30" fill="{colour[name]}" '
                    f'stroke="white"><title>step {i}: {escape(name)}</title></rect>'
                    for i, name in enumerate(outcome.plan.actions))
    legend = ' '.join(f'<span style="color:{colour[name]}">&#9632;</span> {escape(name)}'
                      for name in dict.fromkeys(outcome.plan.actions))
    return f'<svg viewBox="0 0 {width} 30" width="{width}" height="30" role="img">{boxes}</svg><p>{legend}</p>'


def write_report(outcome: Outcome, path: str | Path, title: str) -> None:
    """Write the page, whole or not at all."""
    header, *rows = rows_of(outcome)
    cells = ''.join(f'<tr{" class=chosen" * (not i)}>{"".join(f"<td>{escape(c)}</td>" for c in row)}</tr>'
                    for i, row in enumerate(rows))
    last = summary(outcome).splitlines()
    page = (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
            f'<style>{STYLE}</style></head><body><h1>{escape(title)}</h1><h2>The plan</h2>'
            f'<p>Steps from noise (left) to clean (right).</p>{strip(outcome)}'
            f'<h2>Finalists</h2><table><tr>{"".join(f"<th>{c}</th>" for c in header)}</tr>{cells}</table>'
            f'<p>{escape(last[-3].capitalize())}. {escape(last[-1].capitalize())}.</p>'
            f'<h2>Measured</h2><img alt="divergence against cost, and sensitivities" '
            f'src="{figure_uri(figure_of(outcome))}"></body></html>\n')
    atomic_write(path, lambda file: file.write(page.encode()))
