"""One picture of several networks: what they generate from equal seeds, their cost, and their spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from slimdiff.evaluation.figures import save_figure
from slimdiff.sampling.images import as_rgb, image_grid
from studies.spectra_report import octave_ticks


def image_rows(images: Tensor, rows: int, columns: int, gap: int = 1) -> np.ndarray:
    """The first ``rows * columns`` uint8 images (N, C, H, W), row by row, as one (H', W', 3) array, white between.

    Raises:
        ValueError: fewer images.
    """
    if len(images) < rows * columns:
        raise ValueError(f'{rows} rows of {columns} images need {rows * columns}, got {len(images)}.')
    return image_grid(as_rgb(images[:rows * columns]), columns, gap).permute(1, 2, 0).numpy()


def plot_side_by_side(sets: Mapping[str, Tensor], titles: Sequence[str], spectra: Mapping[str, Any], path: str | Path,
                      rows: int = 2, columns: int = 12) -> None:
    """Images of each set, one below the other, and the ratio of their spectra to that of real images at the right.

    Args:
        sets: name -> uint8 images (N, C, H, W); those of one index should come from one seed.
        titles: one for each set.
        spectra: what :func:`~studies.spectra.compare_spectra` returns; sets it does not know have no curve.
    """
    figure = Figure(figsize=(11, 0.62 * (rows + 0.6) * len(sets)), layout='constrained')
    left, right = figure.subfigures(1, 2, width_ratios=(2.3, 1))
    for axis, images, title in zip(np.atleast_1d(left.subplots(len(sets), 1)), sets.values(), titles):
        axis.imshow(image_rows(images, rows, columns), interpolation='nearest')
        axis.set_title(title, fontsize=10, loc='left')
        axis.axis('off')
    axis = right.subplots()
    axis.axhline(1, color='black', linewidth=1, label='real')
    for i, name in enumerate(name for name in sets if name in spectra['sets']):
        ratio = np.exp(np.array(spectra['sets'][name]['power']['ratio']))
        axis.plot(spectra['frequencies'], ratio, color=f'C{i}', label=name)
    axis.set_xscale('log')
    octave_ticks(axis, spectra['frequencies'])
    axis.set(ylabel='power / power of real images', title='mean spectrum')
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9)
    save_figure(figure, path)
