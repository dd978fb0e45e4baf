"""Random search: what every other searcher has to beat."""

from __future__ import annotations

from typing import Any

from slimdiff.registry import SEARCHERS
from slimdiff.search.searchers.base import Searcher
from slimdiff.search.space import Genome


@SEARCHERS.register_module()
class RandomSearch(Searcher):
    """All uniform allocations, then random ones.

    Args:
        num_candidates: in all; fewer if the space is smaller.
        batch_size: candidates asked for at once.
        seed: of the draws.
    """

    def __init__(self, num_candidates: int = 100, batch_size: int = 10, seed: int = 0) -> None:
        super().__init__(seed)
        if num_candidates < 1 or batch_size < 1:
            raise ValueError(f'RandomSearch: num_candidates={num_candidates} and batch_size={batch_size} must be at '
                             'least 1.')
        self.num_candidates, self.batch_size = num_candidates, batch_size

    @property
    def total(self) -> int:
        return min(self.num_candidates, self.space.size)

    def propose(self) -> list[Genome]:
        batch: dict[Genome, Any] = {}
        if not self.archive:
            batch = dict.fromkeys(self.space.uniforms()[:self.total])
        count = min(self.batch_size, self.total - len(self.archive))
        while len(batch) < count:
            genome = self.unseen(lambda: self.space.random(self.rng), set(batch))
            if genome is None:
                # Nearly everything has been seen: take what is left in order.
                genome = next(g for g in self.space.enumerate() if g not in self.archive and g not in batch)
            batch[genome] = None
        return list(batch)
