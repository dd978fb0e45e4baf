"""Is it the same run? Every command that goes on with what is there compares settings here, and names what differs."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Collection, Mapping
from typing import Any

from slimdiff.arguments import flatten, plain

_ABSENT = object()


def as_json(value: Any) -> Any:
    """A config value as JSON gives it back, so that it compares with what was read from a file."""
    return json.loads(json.dumps(plain(value), default=str))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], ignored: Collection[str] = ()) -> list[str]:
    """``key: old -> new`` for every key in which two nested settings differ; ``ignored`` are patterns of flat keys."""
    before, after = (flatten(settings) if settings else {} for settings in (old, new))
    return [f'{key}: {shown(before.get(key, _ABSENT))} -> {shown(after.get(key, _ABSENT))}'
            for key in sorted(before.keys() | after.keys())
            if before.get(key, _ABSENT) != after.get(key, _ABSENT)
            and not any(fnmatch.fnmatch(key, pattern) for pattern in ignored)]


def shown(value: Any, limit: int = 80) -> str:
    """A value for a message, of a line's length at most."""
    text = '(absent)' if value is _ABSENT else repr(value)
    return text if len(text) <= limit else f'{text[:limit - 5]} ...{text[-1]}'


def listed(found: list[str], limit: int = 8) -> str:
    """Differences as the indented lines of a message."""
    more = [f'... and {len(found) - limit} more'] if len(found) > limit else []
    return ''.join(f'\n    {line}' for line in found[:limit] + more)


def require_same(old: Mapping[str, Any], new: Mapping[str, Any], what: str, advice: str,
                 error: type[ValueError] = ValueError) -> None:
    """Raise ``error`` unless two settings are the same: ``what`` is there, what differs, and ``advice``."""
    found = differences(old, new)
    if found:
        raise error(f'{what}, with other values of{listed(found)}\nNothing was changed. {advice}')
