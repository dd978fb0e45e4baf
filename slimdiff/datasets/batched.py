"""Data sets that make a batch at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset


class BatchedDataset(Dataset):
    """Samples out of batches: a subclass defines ``__len__``, and ``get_batch(indices)``, a dict of columns."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # Python would otherwise index 0, 1, 2, ... until an IndexError, which indices beyond `len` don't raise.
        return (self[k] for k in range(len(self)))

    def __getitem__(self, k: int) -> dict[str, Any]:
        return self.__getitems__([k])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The samples of a batch at once; ``DataLoader`` calls this where a dataset has it."""
        batch = self.get_batch(indices)
        columns = [column.tolist() if isinstance(column, Tensor) and column.ndim == 1 else list(column)
                   for column in batch.values()]
        return [dict(zip(batch, row)) for row in zip(*columns)]
