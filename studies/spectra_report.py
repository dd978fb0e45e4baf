"""Figure and table of mean reduced spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slimdiff.evaluation.figures import save_figure
from slimdiff.tables import markdown_table
from studies.spectra import CONFIDENCE


def plot_spectra(result: Mapping[str, Any], path: str | Path) -> None:
    """Left the spectra, with the quartiles of the real images; right their ratio to real, with 95 % confidence.

    Thin lines are single training seeds. ``result`` comes from ``compare_spectra``.
    """
    figure = Figure(figsize=(9.6, 4), layout='constrained')
    left, right = figure.subplots(1, 2)
    frequencies, real = result['frequencies'], result['real']
    left.fill_between(frequencies, real['quartiles'][0], real['quartiles'][2], color='black', alpha=0.12, linewidth=0,
                      label='real: half of the images')
    left.loglog(frequencies, real['mean'], color='black', label=f'real ({real["images"]})')
    right.axhline(1, color='black', linewidth=1)
    for i, (name, entry) in enumerate(result['sets'].items()):
        control = name.startswith('real')
        color, style = ('grey', ':') if control else (f'C{i}', '-')
        ratio, error = np.array(entry['power']['ratio']), CONFIDENCE * np.array(entry['power']['stderr'])
        right.semilogx(frequencies, np.exp(ratio), style, color=color, label=name)
        right.fill_between(frequencies, np.exp(ratio - error), np.exp(ratio + error), color=color, alpha=0.15,
                           linewidth=0)
        if len(entry['runs']) > 1:
            for run in entry['runs']:
                right.semilogx(frequencies, np.exp(run['power']), color=color, linewidth=0.5)
        if not control:
            left.loglog(frequencies, np.mean([run['mean'] for run in entry['runs']], 0), color=color,
                        label=f'{name} ({sum(run["images"] for run in entry["runs"])})')
    left.set(ylabel='mean power in a ring', title='mean reduced spectrum')
    right.set(ylabel='power / power of real images', title='relative to real')
    for axis in (left, right):
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
        octave_ticks(axis, frequencies)
    save_figure(figure, path)


def spectra_table(result: Mapping[str, Any]) -> str:
    """Markdown table: the log ratio to real over the lower and the upper half of the frequencies, in both versions."""

    def cell(entry: Mapping[str, Any], band: str) -> str:
        text = f'{entry[band]:+.3f} ± {CONFIDENCE * entry[f"{band}_stderr"]:.3f}'
        spread = entry[f'{band}_seeds']
        return text if spread is None else f'{text} (seeds {spread:.3f})'

    header = ('images', 'runs', 'power, lower half', 'power, top half', 'log, lower half', 'log, top half')
    return markdown_table(header, [
        [name, str(len(entry['runs'])),
         *(cell(entry[version], band) for version in ('power', 'log') for band in ('bottom', 'top'))]
        for name, entry in result['sets'].items()])


def spectra_section(result: Mapping[str, Any]) -> str:
    """What the documentation includes: the table, and the command that made it."""
    images = sorted({run['images'] for entry in result['sets'].values() for run in entry['runs']})
    count = ' to '.join(f'{n:,}' for n in sorted({images[0], images[-1]}))
    sources = [f'- {name}: ' + ', '.join(f'`{s["checkpoint"]}` of `{s["config"]}`' for s in found)
               for name, found in result['sources'].items()]
    return '\n'.join([
        spectra_table(result),
        f'{count} images of each run, {result["steps"]} steps, against {result["real"]["images"]:,} real ones; seed '
        f'{result["seed"]}. The networks:\n', *sources, '',
        f'Made by\n\n```text\n{result["command"]}\n```\n',
        f'on {result["machine"]}, PyTorch {result["versions"]["torch"]}.', ''])


def octave_ticks(axis: Axes, frequencies: Sequence[float]) -> None:
    """Label a logarithmic frequency axis by octaves: 1/16, 1/8, 1/4, 1/2 cycles per pixel."""
    octaves = [2**-k for k in range(1, 12) if 2**-k >= min(frequencies) * 0.99]
    axis.set_xticks(octaves, [f'1/{round(1 / f)}' for f in octaves])
    axis.set_xticks([], minor=True)
    axis.set_xlabel('frequency (cycles per pixel)')
