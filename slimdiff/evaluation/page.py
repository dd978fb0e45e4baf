"""Reports as HTML pages that need nothing but themselves."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from slimdiff.checkpoint import atomic_write

TEMPLATES = jinja2.Environment(loader=jinja2.PackageLoader('slimdiff', ''), autoescape=True)


def write_page(template: str, path: str | Path, **values: Any) -> None:
    """Write the page of a template of this package, whole or not at all.

    Args:
        template: its path in the package; it extends ``evaluation/page.html.j2``.
        values: that it names, ``title`` among them.
    """
    page = TEMPLATES.get_template(template).render(values)
    atomic_write(path, lambda file: file.write(page.encode()))


def figure_uri(figure: Figure, dpi: int = 100) -> str:
    """A figure as the ``src`` of an image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=dpi)
    return data_uri(buffer.getvalue())


def grid_uri(grid: Tensor) -> str:
    """As :func:`figure_uri`, of a grid (3, H, W) or (1, H, W) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(grid.permute(1, 2, 0).numpy().squeeze()).save(buffer, format='PNG')
    return data_uri(buffer.getvalue())


def data_uri(png: bytes) -> str:
    return f'data:image/png;base64,{base64.b64encode(png).decode()}'
