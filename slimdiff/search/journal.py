"""What a search has spent and its state does not say yet: a killed one finds its qualities again, and their cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from slimdiff.checkpoint.tensor_store import TensorStore, content_key
from slimdiff.search.evaluation import Work


class JournalledStore(TensorStore):
    """The cache of qualities, which notes with each of them what this process has spent since the last saved state.

    Without that, work whose results a killed search finds in its cache would be counted by nobody.

    Args:
        path: of the file.
        search: names the search; others may share the cache.
        rank: of this process.
        spent: gives the number of the last saved state, the work of each evaluator since, and the seconds since.
    """

    def __init__(self, path: str | Path, search: str, rank: int,
                 spent: Callable[[], tuple[int, Sequence[Work], float]]) -> None:
        super().__init__(path)
        self.search, self.rank, self.spent = search, rank, spent

    def put(self, key: bytes, tensors: Mapping[str, Tensor]) -> None:
        super().put(key, tensors)
        state, works, seconds = self.spent()
        rows = [[float(state), seconds, *map(float, dataclasses.astuple(work))] for work in works]
        super().put(self._row(self.rank), {'spent': torch.tensor(rows, dtype=torch.float64)})

    def _row(self, rank: int) -> bytes:
        return content_key('spent', self.search, str(rank))

    def unsaved(self, state: int, ranks: int, evaluators: int) -> tuple[list[Work], float]:
        """What processes that are gone have spent after the state of this number: by evaluator, and the seconds."""
        total, longest = [Work() for _ in range(evaluators)], 0.0
        for rank in range(ranks):
            found = self.get(self._row(rank), ['spent'])
            for i, (number, seconds, *work) in enumerate(found['spent'].tolist() if found else []):
                if number == state and i < evaluators:
                    total[i] = total[i] + Work(*(type(default)(value) for default, value in zip(
                        dataclasses.astuple(Work()), work)))
                    longest = max(longest, seconds)
        return total, longest
