"""Files that a run is nicer with, but must not end for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def best_effort(runner: Any, what: object) -> Iterator[None]:
    """Turn an error inside (a full disk, NaN among images) into a warning: a picture is not worth the training."""
    try:
        yield
    except (OSError, ValueError) as error:
        runner.logger.warning(f'{what} could not be written: {error}. Training goes on.')
