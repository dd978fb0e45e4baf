"""A cheap rung that samples: how far a narrow width in one part of the sampling moves the result."""

from __future__ import annotations

import dataclasses
import json

import torch
from torch import Tensor

from slimdiff.evaluation.common import run_on_rank0
from slimdiff.registry import EVALUATORS
from slimdiff.sampling import Run, StepAllocation
from slimdiff.search.evaluators.additive import AdditiveEvaluator
from slimdiff.search.evaluators.divergence import DivergenceEvaluator


@EVALUATORS.register_module()
class SensitivityEvaluator(AdditiveEvaluator):
    """Quality = sum of the divergences that the steps cause one part at a time.

    The sampling is cut into ``num_bins`` parts of (nearly) equal numbers of steps. For each part and each narrower
    width, a few images are sampled with that width there and the widest one everywhere else, and their mean squared
    distance to those of the full network is taken (:class:`~slimdiff.search.evaluators.DivergenceEvaluator`). The
    quality of an allocation is the sum over its steps, each with its share of its part's distance.

    So it sees what the loss gap can't, how later steps correct or carry on an error, and is additive all the same:
    :class:`~slimdiff.search.searchers.DynamicProgramming` finds its exact optimum for every budget. It is exact where
    distances add up, that is, where the errors of different parts are unrelated. All samplings share the full
    network's steps before their part, so ``num_bins * (widths - 1)`` of them cost about half of that. Allocations with
    a reuse fail.

    Args:
        num_images: for each part and width.
        num_bins: parts of the sampling; no more than there are steps.
        batch_size, seed, amp: see :class:`~slimdiff.search.evaluators.sampling.SamplingEvaluator`.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, num_images: int = 16, num_bins: int = 10, batch_size: int = 64, seed: int = 0,
                 amp: bool = False) -> None:
        if num_bins < 1:
            raise ValueError(f'SensitivityEvaluator: num_bins={num_bins} must be at least 1.')
        self.num_images, self.num_bins, self.batch_size = num_images, num_bins, batch_size
        self.seed, self.amp = seed, amp

    def prepare(self) -> None:
        problem = self.problem
        self._runs = sorted(problem.costs.macs_of)
        count = len(problem.timesteps)
        bins = min(self.num_bins, count)
        self._bin_of_step = [step * bins // count for step in range(count)]
        key = self.key('table', json.dumps([dataclasses.astuple(run) for run in self._runs]))
        found = run_on_rank0(lambda: None if problem.cache is None else problem.cache.get(key, ['table']))
        if found is None:
            # Of this function alone: it holds a network of each run.
            divergence = DivergenceEvaluator(self.num_images, self.batch_size, self.seed, self.amp).bind(problem)
            found = {'table': run_on_rank0(lambda: self._measured(divergence))}
            self._work = self._work + divergence.work
            if problem.cache is not None:
                problem.cache.put(key, found)
        self._table: Tensor = found['table']

    def _measured(self, divergence: DivergenceEvaluator) -> Tensor:
        """(bins, runs) float64; zero at the widest and deepest."""
        parts, narrower = self._bin_of_step[-1] + 1, self._runs[:-1]
        table = torch.zeros(parts, len(self._runs), dtype=torch.float64)
        if narrower:
            found = divergence.measure([self._one_part(part, run) for part in range(parts) for run in narrower])
            table[:, :-1] = torch.tensor(found, dtype=torch.float64).reshape(parts, len(narrower))
        return table

    def _one_part(self, part: int, run: Run) -> StepAllocation:
        """``run`` in one part of the steps, the widest and deepest in all others."""
        actions = [run if own == part else self._runs[-1] for own in self._bin_of_step]
        return StepAllocation.from_steps(actions, self.problem.timesteps, self.problem.model.num_train_timesteps,
                                         self.problem.model.noise_process.name)

    @property
    def runs(self) -> list[Run]:
        """The columns of :attr:`table`."""
        return self._runs

    @property
    def table(self) -> Tensor:
        """Divergence by part of the sampling, the noisiest first, and run: (bins, runs) float64."""
        return self._table

    def per_step(self) -> list[dict[Run, float]]:
        rows = self._table.tolist()
        return [{run: rows[part][i] / self._bin_of_step.count(part) for i, run in enumerate(self._runs)}
                for part in self._bin_of_step]
