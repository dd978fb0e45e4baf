"""What figures share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slimdiff.checkpoint import atomic_write


def save_figure(figure: Figure, path: str | Path, dpi: int = 100, **options: Any) -> None:
    """Write a PNG file, whole or not at all; folders are made. ``options`` are those of ``Figure.savefig``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, lambda file: figure.savefig(file, format='png', dpi=dpi, **options))


def octave_ticks(axis: Axes, frequencies: Sequence[float]) -> None:
    """Label a logarithmic frequency axis by octaves: 1/16, 1/8, 1/4, 1/2 cycles per pixel."""
    octaves = [2**-k for k in range(1, 12) if 2**-k >= min(frequencies) * 0.99]
    axis.set_xticks(octaves, [f'1/{round(1 / f)}' for f in octaves])
    axis.set_xticks([], minor=True)
    axis.set_xlabel('frequency (cycles per pixel)')
