"""Many strings in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


class PackedStrings(Sequence):
    """A constant sequence of strings in two buffers: the bytes of all, and where each ends.

    A list of the 1.3 M paths of ImageNet takes 110 MB, and again as much in every worker of a loader: reading an
    element counts its references and so copies the page on which it lies. The two buffers (49 MB) stay shared.

    Equal to any sequence of the same strings.
    """

    def __init__(self, strings: Iterable[str] = ()):
        # Names of files need not be valid UTF-8.
        encoded = [string.encode('utf-8', 'surrogateescape') for string in strings]
        self._bytes = b''.join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    @property
    def nbytes(self) -> int:
        return len(self._bytes) + self._ends.nbytes

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        item = range(len(self))[index]  # negative ones, and the IndexError of one beyond
        return self._bytes[self._ends[item]:self._ends[item + 1]].decode('utf-8', 'surrogateescape')

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other))

    __hash__ = None

    def __repr__(self) -> str:
        return f'PackedStrings({len(self)} strings, the first {self[:3]})'
