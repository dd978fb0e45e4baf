"""JSON files, whole or absent."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slimdiff.checkpoint.files import atomic_write
from slimdiff.spelling import did_you_mean

#: levels of a JSON file that are read: none of ours has a tenth of it, and code that walks through one recurses
MAX_DEPTH = 100
#: a list of numbers over several lines; a string in JSON holds no line break
_NUMBERS = re.compile(r'\[\n[\d\s.,eE+-]+\]')


def read_json(path: str | Path, advice: str, kind: type = dict) -> Any:
    """The content of a JSON file, an object or another ``kind``.

    Args:
        advice: what to do about a damaged file, the end of the message.

    Raises:
        ValueError: no JSON (cut off, say), of another kind, or nested too deeply; names the file.
        OSError: it can't be read.
    """
    try:
        content = json.loads(Path(path).read_bytes())
        if not isinstance(content, kind):
            raise ValueError(f'{type(content).__name__} where {kind.__name__} is expected')
        level, depth = [content], 0
        while level:
            depth += 1
            if depth > MAX_DEPTH:
                raise RecursionError
            level = [item for value in level if isinstance(value, (dict, list))
                     for item in (value.values() if isinstance(value, dict) else value)]
    except FileNotFoundError:
        raise FileNotFoundError(f'{path} does not exist. {advice}') from None
    except RecursionError:
        raise ValueError(f'{path} is damaged: nested too deeply. {advice}') from None
    except ValueError as error:
        raise ValueError(f'{path} is damaged: {error}. {advice}') from None
    return content


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


def check_keys(data: Any, needed: Sequence[str], optional: Sequence[str], what: str) -> None:
    """Raise ValueError unless ``data`` is an object with the ``needed`` keys and none besides the ``optional`` ones.

    Args:
        what: it is, at the beginning of the message.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f'{what}: expected an object with {", ".join(needed)}, got {data!r}.')
    allowed = (*needed, *optional)
    for key in data:
        if key not in allowed:
            raise ValueError(f"{what}: unknown key '{key}'.{did_you_mean(key, allowed)} "
                             f'Allowed: {", ".join(allowed)}.')
    missing = [key for key in needed if key not in data]
    if missing:
        raise ValueError(f'{what}: lacks {", ".join(missing)}.')
