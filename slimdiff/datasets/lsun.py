"""LSUN: the lmdb databases of LSUN's scenes and objects."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from slimdiff.datasets.index_cache import cached_index, stamp_of
from slimdiff.datasets.missing import missing_data
from slimdiff.datasets.records import RecordDataset
from slimdiff.optional import optional_package
from slimdiff.progress import Progress
from slimdiff.registry import DATASETS

#: Databases that this process has open. lmdb forbids to open one twice in a process, which two data sets would do.
_ENVIRONMENTS: dict[Path, Any] = {}


def _lmdb() -> ModuleType:
    return optional_package('lmdb', 'datasets', 'LSUN')


def _close_all() -> None:
    while _ENVIRONMENTS:
        _ENVIRONMENTS.popitem()[1].close()


# An open environment must not cross a fork (lmdb's documentation), and py-lmdb refuses to open in the child what the
# parent had open. So they are closed just before, and every process opens its own when it next reads.
os.register_at_fork(before=_close_all)


def environment(folder: Path) -> Any:
    """The database in ``folder``, opened for reading by this process.

    Raises:
        ValueError: it is not an lmdb database, or was cut off.
    """
    folder = folder.resolve()
    if folder not in _ENVIRONMENTS:
        lmdb, file = _lmdb(), folder / 'data.mdb'
        remedy = 'Unpack the archive again, or, if that fails, download it again.'
        if file.is_file() and not file.stat().st_size:  # of which lmdb says 'Bad file descriptor'
            raise ValueError(f"data_root: '{file}' is empty (0 bytes). {remedy}")
        try:
            # No lock file: the data may lie on a read-only disk. No read-ahead: the access is random.
            opened = lmdb.open(str(folder), readonly=True, lock=False, create=False, readahead=False)
        except lmdb.Error as error:
            raise ValueError(f"data_root: '{file}' cannot be opened as an lmdb database ({error}). {remedy}") from None
        # lmdb maps the file and would die of a bus error on a page beyond its end.
        expected = (opened.info()['last_pgno'] + 1) * opened.stat()['psize']
        if file.stat().st_size < expected:
            opened.close()
            raise ValueError(f"data_root: '{file}' is cut off: it has {file.stat().st_size} bytes of at least "
                             f'{expected}. {remedy}')
        _ENVIRONMENTS[folder] = opened
    return _ENVIRONMENTS[folder]


def read_keys(folder: Path) -> np.ndarray:
    """All keys of a database in its order, as an array of byte strings."""
    chunks: list[np.ndarray] = []
    try:
        database = environment(folder)
        with database.begin() as transaction, Progress(database.stat()['entries'], 'indexing', 'keys') as bar:
            keys = transaction.cursor().iternext(keys=True, values=False)
            while chunk := list(islice(keys, 65536)):
                if any(key.endswith(b'\0') for key in chunk):
                    raise ValueError(f"data_root: the database in '{folder}' has keys that end in a zero byte; LSUN's "
                                     'are hexadecimal digits.')
                chunks.append(np.array(chunk, dtype=bytes))
                bar.update(len(chunk))
    except _lmdb().Error as error:
        raise ValueError(f"data_root: the database '{folder / 'data.mdb'}' is damaged ({error}). Unpack the archive "
                         'again, or, if that fails, download it again.') from None
    if not chunks:
        raise ValueError(f"data_root: the database in '{folder}' is empty.")
    return np.concatenate(chunks)


@DATASETS.register_module()
class LSUN(RecordDataset):
    """A database of LSUN (Yu et al. 2015): lmdb, from a key of 40 digits to an encoded image (WebP or JPEG).

    The list of keys (120 MB for the 3 M bedrooms) is read once and kept beside the database, or in the user's cache
    where that is read-only; it is mapped, not loaded, and made again when size or time of ``data.mdb`` change.

    Args:
        data_root: the folder with ``data.mdb``, such as ``church_outdoor_train_lmdb``.
        image_size, pipeline, on_error, seed: as of :class:`~slimdiff.datasets.image_folder.ImageFolder`.

    Raises:
        MissingPackageError: the package lmdb is missing.
        ValueError: no database there, a damaged or an empty one.
    """

    gives = 'bytes'
    section = 'lsun'

    def __init__(self, data_root: str, image_size: int = 256, pipeline: Sequence[dict] | None = None,
                 on_error: str = 'raise', seed: int = 0):
        _lmdb()
        super().__init__(data_root, image_size, pipeline, on_error, seed)
        file = self.data_root / 'data.mdb'
        if not file.is_file():
            raise missing_data(file, 'lmdb database', self.section)
        self._keys = cached_index(file, 'keys', stamp_of([file]), lambda: read_keys(self.data_root))
        environment(self.data_root)  # a database that was cut off is named now, though its keys be known
        self.set_length(len(self._keys))

    def name_of(self, item: int) -> str:
        return f"{self.data_root / 'data.mdb'}, key {bytes(self._keys.array[item]).decode(errors='replace')}"

    def load(self, item: int, k: int) -> dict:
        with environment(self.data_root).begin() as transaction:
            content = transaction.get(bytes(self._keys.array[item]))
        if content is None:
            raise ValueError('the database has no such key any more')
        return dict(img_path=self.name_of(item), img_bytes=content)
