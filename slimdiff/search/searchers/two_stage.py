"""The exact front of the cheap surrogate, then refinement by a more expensive evaluator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slimdiff.registry import SEARCHERS
from slimdiff.search.budget import Budget
from slimdiff.search.searchers.dynamic_programming import DynamicProgramming, evenly
from slimdiff.search.searchers.nsga2 import NSGA2Search
from slimdiff.search.space import Genome


@SEARCHERS.register_module()
class TwoStageSearch(NSGA2Search):
    """:class:`DynamicProgramming` on the additive evaluator, then :class:`NSGA2Search` that begins with its front.

    The first stage needs no sampling. The second asks the last evaluator of the ladder, which sees what the surrogate
    can't (how errors of early steps are carried on, and what a reuse does), and needs few candidates because it begins
    near the front. In the end the exact optimum for the search's budget is judged, too, if it has not been: the best
    within a budget is then no worse than what the surrogate alone would have picked.

    Args:
        seeds: how many allocations of the exact front the first population gets, evenly over the costs; three
            quarters of it by default, the rest being uniform and random ones.
        population, generations, offspring, crossover, mutation, budget, seed: of the second stage.
    """

    moves_timesteps = False

    def __init__(self,
                 population: int = 24,
                 generations: int = 4,
                 seeds: int | None = None,
                 offspring: int | None = None,
                 crossover: float = 0.3,
                 mutation: float | None = None,
                 budget: Mapping[str, float] | None = None,
                 seed: int = 0) -> None:
        super().__init__(population, generations, offspring, crossover, mutation, budget, seed)
        self.seeds = max(1, population * 3 // 4) if seeds is None else seeds
        if not 1 <= self.seeds <= population:
            raise ValueError(f'TwoStageSearch: seeds={seeds} must lie in 1..{population}, the population.')
        self.first_stage = DynamicProgramming()

    def bind(self, space: Any, evaluators: Sequence[Any] = (), costs: Any = None) -> TwoStageSearch:
        self.first_stage.bind(space, evaluators, costs)
        super().bind(space, evaluators, costs)
        front = [(cost, genome) for cost, _, genome in self.first_stage.surrogate_front]
        if self.budget is not None:
            front = [(cost, genome) for cost, genome in front if self.budget.allows(space.decode(genome), space, costs)]
        self.initial = evenly(front, self.seeds)
        return self

    def finalists(self, budget: Budget) -> list[Genome]:
        return self.first_stage.finalists(budget)
