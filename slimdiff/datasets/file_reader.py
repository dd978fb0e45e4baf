"""Reading parts of files from any number of processes."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path


class FileReader:
    """Read ``size`` bytes at ``offset`` of one of many files.

    Safe in the workers of a loader: ``os.pread`` has no current position that a parent and its forked children could
    move under each other, and a pickled reader (spawned workers) carries no descriptors: it opens files again.

    Args:
        paths: the files; they are opened when first read.
        limit: of files open at a time; the least recently read is closed.
    """

    def __init__(self, paths: Sequence[str | Path], limit: int = 64):
        self.paths, self.limit = paths, limit
        self._open: OrderedDict[int, int] = OrderedDict()

    def read(self, number: int, offset: int, size: int) -> bytes:
        """The bytes [offset, offset + size) of file ``number``.

        Raises:
            ValueError: the file ends before that.
            OSError: it cannot be opened or read.
        """
        if number not in self._open:
            while len(self._open) >= self.limit:
                os.close(self._open.popitem(last=False)[1])
            self._open[number] = os.open(self.paths[number], os.O_RDONLY | os.O_CLOEXEC)
        self._open.move_to_end(number)
        parts, end = [], offset + size
        while offset < end:
            part = os.pread(self._open[number], end - offset, offset)  # at most 2 GiB at a time
            if not part:
                raise ValueError(f'the file ends {end - offset} bytes too early; it was cut off after it was indexed')
            parts.append(part)
            offset += len(part)
        return b''.join(parts)

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def __getstate__(self) -> dict:
        return dict(paths=self.paths, limit=self.limit, _open=OrderedDict())

    def __del__(self) -> None:
        if hasattr(self, '_open'):
            self.close()
