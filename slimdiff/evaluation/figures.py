"""What figures share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from slimdiff.checkpoint import atomic_write


def save_figure(figure: Figure, path: str | Path, dpi: int = 100, **options: Any) -> None:
    """Write a PNG file, whole or not at all; folders are made. ``options`` are those of ``Figure.savefig``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, lambda file: figure.savefig(file, format='png', dpi=dpi, **options))
