"""Indices of large files, made once: kept beside the file, or in the user's cache where that folder is read-only."""

from __future__ import annotations

import glob
import hashlib
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from slimdiff.checkpoint.files import atomic_write

#: Part of every stamp: raise it when what an index holds changes.
VERSION = 2


def stamp_of(paths: Iterable[Path], *words: object) -> str:
    """Hash of names, sizes and times of change of files, and of ``words``: another stamp means another index."""
    digest = hashlib.sha256(repr((VERSION, words)).encode())
    for path in paths:
        status = path.stat()
        digest.update(f'{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n'.encode('utf-8', 'surrogateescape'))
    return digest.hexdigest()[:16]


def folders_for(source: Path) -> list[Path]:
    """Where an index of ``source`` may lie, the preferred first."""
    user = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    place = hashlib.sha256(str(source.parent.absolute()).encode('utf-8', 'surrogateescape')).hexdigest()[:16]
    return [source.parent / '.slimdiff', user / 'slimdiff' / 'indices' / place]


class Index:
    """An array, if possible memory-mapped, so that ranks and workers share it, and spawned ones are sent its name only.

    Args:
        array: one in memory, or None to map ``file``.
        file: that holds it.
    """

    def __init__(self, array: np.ndarray | None = None, file: Path | None = None):
        self.file = file
        self.array = np.load(file, mmap_mode='r', allow_pickle=False) if array is None else array

    def __len__(self) -> int:
        return len(self.array)

    def __getstate__(self) -> dict:
        return dict(array=self.array if self.file is None else None, file=self.file)

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)


def find_index(source: Path, kind: str, stamp: str) -> Index | None:
    """The index that :func:`save_index` kept under this stamp; None if there is none, or no whole one."""
    for folder in folders_for(source):
        try:
            return Index(file=folder / f'{source.name}.{kind}-{stamp}.npy')
        except (OSError, ValueError, EOFError):
            continue
    return None


def save_index(source: Path, kind: str, stamp: str, array: np.ndarray) -> Index:
    """Keep an index, whole or not at all, and remove those of other stamps.

    Where no folder can be written, a warning is logged and the index stays in memory.
    """
    refusals = []
    for folder in folders_for(source):
        file = folder / f'{source.name}.{kind}-{stamp}.npy'
        try:
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(file, lambda out: np.save(out, array, allow_pickle=False))
            for old in folder.glob(f'{glob.escape(source.name)}.{kind}-*.npy'):
                if old != file:
                    old.unlink(missing_ok=True)
        except OSError as error:
            refusals.append(str(error))
            continue
        return Index(file=file)
    print_log(f"The index of '{source}' can be kept nowhere ({'; '.join(refusals)}), so every start makes it again. "
              'Set XDG_CACHE_HOME to a folder that can be written.', logger='current', level=logging.WARNING)
    return Index(array)


def cached_index(source: Path, kind: str, stamp: str, build: Callable[[], np.ndarray]) -> Index:
    """The kept index of ``source`` under this stamp; else what ``build()`` gives, which is kept.

    Processes that start at once may each build it: the last to finish replaces the equal file of the others.
    """
    found = find_index(source, kind, stamp)
    return save_index(source, kind, stamp, build()) if found is None else found
