"""The order of the training data as a function of the iteration, so that resuming needs no replay."""

from __future__ import annotations

from collections.abc import Iterator, Sized

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from slimdiff.datasets.seeding import seed32


@DATA_SAMPLERS.register_module()
class ResumableSampler(Sampler):
    """Infinite sampler whose iteration i is known without walking through the i - 1 before it.

    Positions 0, 1, 2, ... run over the dataset epoch after epoch, each epoch in its own order, drawn from (seed,
    epoch). Iteration i is the positions [i G, (i + 1) G) with G = batch_size * world_size, of which rank r takes the
    r-th contiguous part. Hence 2 ranks with batch size B see, together and in order, what 1 rank sees with 2 B, and a
    run resumed at iteration i goes on exactly, whatever the number of workers. No global random state is touched.

    For a dataset with ``epoch_indexing = True`` it yields ``epoch * len(dataset) + index``, so that the dataset can
    draw fresh crops or augmentations every epoch; for others ``index``.

    Args:
        dataset: anything with a length.
        seed: of the order; the same on all ranks (mmengine's Runner passes its own).
        shuffle: False keeps the dataset's order in every epoch.
        batch_size: of one rank. :func:`slimdiff.datasets.build_dataloader` fills in the loader's, so a config
            needn't (and shouldn't) say it twice.

    Raises:
        ValueError: an empty dataset, no seed, or a batch size below 1.
    """

    def __init__(self, dataset: Sized, seed: int | None = None, shuffle: bool = True, batch_size: int | None = None):
        if len(dataset) == 0:
            raise ValueError('ResumableSampler: the dataset is empty (length 0).')
        if seed is None:
            raise ValueError('ResumableSampler: seed is None. It must be an integer, the same on all ranks: set '
                             '`randomness=dict(seed=0)` (and not `diff_rank_seed=True`, which withholds it).')
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f'ResumableSampler: batch_size must be an integer of at least 1, got {batch_size!r}. '
                             'It is the batch size of the loader; slimdiff.datasets.build_dataloader fills it in.')
        self.rank, self.world_size = get_dist_info()
        self.dataset, self.seed, self.shuffle, self.batch_size = dataset, seed, shuffle, batch_size
        self.iteration = 0
        self._order: tuple[int, np.ndarray] | None = None

    def set_position(self, iteration: int) -> None:
        """Make the next ``iter(sampler)`` start at this training iteration. Call it before ``iter(dataloader)``."""
        if iteration < 0:
            raise ValueError(f'ResumableSampler: iteration must be at least 0, got {iteration}.')
        self.iteration = int(iteration)

    def index_at(self, position: int) -> int:
        """What the sampler yields at a global position, for any position at any time."""
        epoch, offset = divmod(position, len(self.dataset))
        index = int(self._epoch_order(epoch)[offset]) if self.shuffle else offset
        return epoch * len(self.dataset) + index if getattr(self.dataset, 'epoch_indexing', False) else index

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(seed32(self.seed, epoch))
            self._order = (epoch, torch.randperm(len(self.dataset), generator=generator).numpy())
        return self._order[1]

    def __iter__(self) -> Iterator[int]:
        global_batch = self.batch_size * self.world_size
        first = self.iteration * global_batch + self.rank * self.batch_size
        while True:
            for position in range(first, first + self.batch_size):
                yield self.index_at(position)
            first += global_batch

    def __len__(self) -> int:
        """Images of an epoch for one rank, rounded up. (Iteration itself never ends.)"""
        return -(-len(self.dataset) // self.world_size)
