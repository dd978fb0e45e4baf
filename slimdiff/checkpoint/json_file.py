"""JSON files, whole or absent."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from slimdiff.checkpoint.files import atomic_write

_NUMBERS = re.compile(r'\[[\d\s.,eE+-]+\]')


def write_json(path: str | Path, content: Any, indent: int | None = 1, allow_nan: bool = True) -> None:
    """Write ``content`` to ``path``: an interrupt leaves the old file or the new one. Folders are made.

    Args:
        content: plain data.
        indent: of each level, with lists of numbers on one line each; None puts everything on one line.
        allow_nan: NaN and infinity, which JSON proper has not, may be in it.

    Raises:
        ValueError: NaN or infinity without ``allow_nan``; no file was touched.
    """
    text = json.dumps(content, indent=indent, allow_nan=allow_nan)
    if indent is not None:
        text = _NUMBERS.sub(lambda m: ' '.join(m[0].split()).replace('[ ', '[').replace(' ]', ']'), text)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, lambda file: file.write(f'{text}\n'.encode()))
