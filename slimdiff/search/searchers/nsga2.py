"""NSGA-II on allocations: two objectives, integer genomes, a hard budget if wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from slimdiff.registry import SEARCHERS
from slimdiff.search.budget import Budget
from slimdiff.search.evaluation import Evaluation
from slimdiff.search.searchers.base import Searcher, plain_genomes
from slimdiff.search.space import Genome

#: a parent's mate is one of so many that are nearest to it in cost: parts of a cheap and an expensive one fit badly
MATES = 5


@SEARCHERS.register_module()
class NSGA2Search(Searcher):
    """NSGA-II (Deb et al. 2002) for quality and MACs at once, as a front, where DDSM searches a weighted sum of both.

    Non-dominated sorting and crowding distance are pymoo's; the loop is our own, because its whole state is then plain
    data and a killed search goes on exactly. The operators are those of :class:`~slimdiff.search.SearchSpace`.
    The first population holds the uniform allocations, which span the front.

    Args:
        population: candidates that are kept.
        generations: rounds of offspring after the first population.
        offspring: of each round; as many as the population by default.
        crossover: probability that a child has two parents, neighbours in cost; the others are mutated.
        mutation: probability *per gene*; by default one change, see :meth:`~slimdiff.search.SearchSpace.mutate`.
        budget: hard limit, as ``dict(fraction=0.5)``, ``dict(macs=...)`` or ``dict(latency=...)``: a candidate above
            it loses against any within it (constrained domination).
        seed: of all draws.

    Raises:
        ValueError: a number that is too small, a probability outside [0, 1].
    """

    def __init__(self,
                 population: int = 40,
                 generations: int = 10,
                 offspring: int | None = None,
                 crossover: float = 0.3,
                 mutation: float | None = None,
                 budget: Mapping[str, float] | None = None,
                 seed: int = 0) -> None:
        super().__init__(seed)
        offspring = population if offspring is None else offspring
        if population < 2 or generations < 0 or offspring < 1:
            raise ValueError(f'NSGA2Search: population={population} must be at least 2, generations={generations} at '
                             f'least 0, offspring={offspring} at least 1.')
        for name, value in (('crossover', crossover), ('mutation', 0.0 if mutation is None else mutation)):
            if not 0 <= value <= 1:
                raise ValueError(f'NSGA2Search: {name}={value} is a probability in [0, 1].')
        self.population, self.generations, self.offspring = population, generations, offspring
        self.crossover, self.mutation = crossover, mutation
        self.budget = Budget.parse(budget)
        self.generation = 0
        self.members: list[Genome] = []
        #: genomes of the first population, beside the uniform ones
        self.initial: list[Genome] = []

    def bind(self, space: Any, evaluators: Sequence[Any] = (), costs: Any = None) -> NSGA2Search:
        super().bind(space, evaluators, costs)
        if self.budget is not None:
            self.budget = self.budget.bound(costs, space)
            self.budget.check(space, costs)
        return self

    @property
    def total(self) -> int:
        return min(self.population + self.generations * self.offspring, self.space.size)

    # ---- proposing --------------------------------------------------------------------------------------------

    def propose(self) -> list[Genome]:
        if self.generation > self.generations:
            return []
        if self.generation == 0:
            batch = list(dict.fromkeys([*self.space.uniforms(), *self.initial]))[:max(self.population, 2)]
            return self._filled(batch, self.population, lambda: self.space.random(self.rng))
        order = self._order(self.members)
        return self._filled([], self.offspring, lambda: self._child(order))

    def _filled(self, batch: list[Genome], count: int, make: Any) -> list[Genome]:
        taken = set(batch)
        while len(batch) < count:
            genome = self.unseen(make, taken, 50) or self.unseen(lambda: self.space.random(self.rng), taken)
            if genome is None:
                break
            batch.append(genome)
            taken.add(genome)
        return batch

    def _child(self, order: Sequence[Genome]) -> Genome:
        one = self._tournament(order)
        if len(order) > 1 and self.rng.random() < self.crossover:
            cost = self.archive[one].macs
            mates = sorted((g for g in order if g != one), key=lambda g: abs(self.archive[g].macs - cost))[:MATES]
            child = self.space.crossover(one, mates[int(self.rng.integers(len(mates)))], self.rng)
            if child not in self.archive:
                return child
            one = child
        return self.space.mutate(one, self.rng, self.mutation)

    def _tournament(self, order: Sequence[Genome]) -> Genome:
        """The better of two: the one that stands first in an order from best to worst."""
        return order[int(self.rng.integers(len(order), size=2).min())]

    # ---- selecting --------------------------------------------------------------------------------------------

    def accept(self, genomes: Sequence[Genome], evaluations: Sequence[Evaluation]) -> None:
        alive = [g for g in (*self.members, *genomes) if not self.archive[g].failed]
        # Should all have failed, the next children come from them all the same.
        self.members = (self._order(alive) or list(genomes))[:self.population]
        self.generation += 1

    def _order(self, genomes: Sequence[Genome]) -> list[Genome]:
        """From best to worst: within the budget before above it; then by front; then larger crowding distance first."""
        excess = [0.0 if self.budget is None else self.budget.excess(self.archive[g]) for g in genomes]
        within = [g for g, e in zip(genomes, excess) if e == 0]
        above = sorted((e, i) for i, e in enumerate(excess) if e > 0)
        return self._by_fronts(within) + [genomes[i] for _, i in above]

    def _by_fronts(self, genomes: Sequence[Genome]) -> list[Genome]:
        from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
        from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
        if not genomes:
            return []
        objectives = np.array([(self.archive[g].macs, self.archive[g].quality) for g in genomes])
        objectives[~np.isfinite(objectives)] = np.finfo(float).max
        ordered = []
        for front in NonDominatedSorting().do(objectives):
            crowding = calc_crowding_distance(objectives[front])
            ordered += [genomes[front[i]] for i in np.lexsort((front, -crowding))]
        return ordered

    # ---- state ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), 'generation': self.generation, 'members': plain_genomes(self.members),
                'initial': plain_genomes(self.initial)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.generation = state['generation']
        self.members = [Genome.from_plain(g) for g in state['members']]
        self.initial = [Genome.from_plain(g) for g in state['initial']]
