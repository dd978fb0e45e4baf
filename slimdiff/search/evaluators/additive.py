"""Evaluators whose quality is a sum over the sampling steps, for which dynamic programming finds the exact optimum."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

from slimdiff.sampling import Run, StepAllocation
from slimdiff.search.evaluators.base import Evaluator
from slimdiff.search.space import SearchSpace


class AdditiveEvaluator(Evaluator):
    """Quality = sum over the sampling steps of what the step adds at its width. A subclass writes :meth:`per_step`.

    Allocations with a reuse fail: what a step leaves to the next is no property of one step.
    """

    @abstractmethod
    def per_step(self) -> list[dict[Run, float]]:
        """What each sampling step, the noisiest first, adds to the quality, by width and depth."""

    def additive(self, space: SearchSpace) -> list[list[float]]:
        """What each cell of a space adds to the quality at each of the space's runs, (cells, runs)."""
        totals = [[0.0] * len(space.runs) for _ in range(space.num_cells)]
        for cell, gaps in zip(space.cell_of_step, self.per_step()):
            for i, run in enumerate(space.runs):
                totals[cell][i] += gaps[run]
        return totals

    def measure(self, allocations: Sequence[StepAllocation]) -> list[float]:
        gaps = self.per_step()
        return [sum(gap[action] if isinstance(action, Run) else math.nan
                    for gap, action in zip(gaps, self.problem.actions(allocation))) for allocation in allocations]
