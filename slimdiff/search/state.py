"""The file of a search: which search it is, and how far it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimdiff.checkpoint import write_json
from slimdiff.registry import flatten, plain

VERSION = 1
STATE_FILE = 'search_state.json'


class SearchDirError(ValueError):
    """A work dir that holds another search, or a state that can't be read."""


def with_timesteps_in_words(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity with the list of timesteps as one entry, so that another list is one difference, not fifty."""
    times = identity.get('timesteps')
    if not times:
        return dict(identity)
    return {**identity, 'timesteps': f'{len(times)} steps: {", ".join(f"{t:.17g}" for t in times)}'}


def shown(value: Any) -> str:
    """A value for a message, of a line's length at most."""
    text = repr(value)
    return text if len(text) <= 48 else f'{text[:44]} ...{text[-1]}'


def load_state(work_dir: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state of this search in ``work_dir``; None if it begins.

    Args:
        identity: everything that the outcome depends on, as plain data.

    Raises:
        SearchDirError: the file is of another search (the message says what differs), or is broken.
    """
    path = work_dir / STATE_FILE
    if not path.is_file():
        return None
    try:
        state = json.loads(path.read_text(encoding='utf-8'))
        version, before = state['version'], state['identity']
    except (ValueError, KeyError, TypeError) as error:
        raise SearchDirError(f'{path} is no state of a search ({error}). Remove it, or choose another --work-dir.') \
            from None
    if version != VERSION:
        raise SearchDirError(f'{path} has version {version}, this slimdiff reads {VERSION}: choose another --work-dir.')
    old, new = (flatten(one) for one in (with_timesteps_in_words(before),
                                         with_timesteps_in_words(json.loads(json.dumps(plain(identity))))))
    absent = object()
    differing = [key for key in sorted(old.keys() | new.keys()) if old.get(key, absent) != new.get(key, absent)]
    if differing:
        lines = [f'\n    {key}: {shown(old.get(key, "(absent)"))} -> {shown(new.get(key, "(absent)"))}'
                 for key in differing[:8]]
        more = f'\n    ... and {len(differing) - 8} more' if len(differing) > 8 else ''
        raise SearchDirError(f'The work dir {work_dir} holds another search, with other values of{"".join(lines)}{more}'
                             '\nNothing was changed. Choose another --work-dir, or remove that one.')
    return state


def save_state(work_dir: Path, identity: Mapping[str, Any], **content: Any) -> None:
    """Replace the state of the search in ``work_dir``."""
    write_json(work_dir / STATE_FILE, dict(version=VERSION, identity=plain(identity), **content), indent=None,
               allow_nan=False)
