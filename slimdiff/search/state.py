"""The file of a search: which search it is, and how far it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimdiff.checkpoint import read_json, write_json
from slimdiff.checkpoint.same import as_json, require_same

VERSION = 2
STATE_FILE = 'search_state.json'


class SearchDirError(ValueError):
    """A work dir that holds another search, or a state that can't be read."""


def with_timesteps_in_words(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity with the list of timesteps as one entry, so that another list is one difference, not fifty."""
    times = identity.get('timesteps')
    if not times:
        return dict(identity)
    return {**identity, 'timesteps': f'{len(times)} steps: {", ".join(f"{t:.17g}" for t in times)}'}


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
    advice = 'Remove it to search again (qualities in the cache are kept), or choose another --work-dir.'
    try:
        state = read_json(path, advice)
        if 'version' in state and state['version'] != VERSION:
            raise ValueError(f'{path} has version {state["version"]}, this slimdiff reads {VERSION}: choose another '
                             '--work-dir.')
        if state.pop('checksum', None) != checksum(state):
            raise ValueError(f'{path} is damaged: its checksum is wrong. {advice}')
    except ValueError as error:
        raise SearchDirError(str(error)) from None
    require_same(with_timesteps_in_words(state['identity']), with_timesteps_in_words(as_json(identity)),
                 f'The work dir {work_dir} holds another search', 'Choose another --work-dir, or remove that one.',
                 SearchDirError)
    return state


def checksum(state: Mapping[str, Any]) -> str:
    """Of the content of a state: one that was changed by hand or by a disk would break the search somewhere else."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def save_state(work_dir: Path, identity: Mapping[str, Any], **content: Any) -> None:
    """Replace the state of the search in ``work_dir``."""
    state = as_json(dict(version=VERSION, identity=identity, **content))
    write_json(work_dir / STATE_FILE, {**state, 'checksum': checksum(state)}, indent=None, allow_nan=False)
