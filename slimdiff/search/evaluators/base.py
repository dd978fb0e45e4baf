"""What an evaluator is: allocations in, quality and cost out, every one computed once."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from slimdiff.arguments import plain
from slimdiff.checkpoint.tensor_store import content_key
from slimdiff.sampling import StepAllocation
from slimdiff.search.evaluation import Evaluation, Work
from slimdiff.search.problem import Problem


class Evaluator(ABC):
    """Judges allocations. A subclass writes :meth:`measure`; cost, cache and failures are done here.

    Public attributes count as settings: they are part of the key under which a quality is kept. What is no setting
    has a name that begins with an underscore.
    """

    _problem: Problem | None = None
    _work = Work()
    #: whether the qualities depend on the real images
    uses_data = False
    #: whether it can judge allocations with timesteps of their own, and if not, when it can
    moves_timesteps: bool = False
    moves_timesteps_if = 'Judge by FrechetEvaluator, or by DivergenceEvaluator(reference_steps=...).'

    @abstractmethod
    def measure(self, allocations: Sequence[StepAllocation]) -> list[float]:
        """The quality of each, lower is better. NaN says that it failed; the search leaves it out and goes on."""

    def prepare(self) -> None:  # noqa: B027 - need not be overridden
        """Called once when the problem is known, on all ranks together: what all measurements need."""

    @property
    def problem(self) -> Problem:
        """The model, the sampler, the data.

        Raises:
            ValueError: not bound yet.
        """
        if self._problem is None:
            raise ValueError(f'{type(self).__name__} has no model yet: call bind(problem) first.')
        return self._problem

    def bind(self, problem: Problem) -> Evaluator:
        """Say what is evaluated; returns the evaluator."""
        self._problem = problem
        self._work = Work()
        if self.uses_data and problem.dataloader is None:
            raise ValueError(f'{type(self).__name__} compares with real images: the config needs a val_dataloader.')
        start = time.perf_counter()
        self.prepare()
        self._work.seconds += time.perf_counter() - start
        return self

    @property
    def work(self) -> Work:
        """What this process has spent since :meth:`bind`."""
        return self._work

    def settings(self) -> dict[str, Any]:
        """The public attributes."""
        return {name: plain(value) for name, value in sorted(vars(self).items()) if not name.startswith('_')}

    def key(self, *parts: str) -> bytes:
        """Key of the cache: settings, weights, sampler, data, and ``parts``."""
        return content_key(type(self).__name__, json.dumps(self.settings(), sort_keys=True, default=str),
                           self.problem.fingerprint, self.problem.data_fingerprint if self.uses_data else '', *parts)

    def evaluate(self, allocations: Sequence[StepAllocation]) -> list[Evaluation]:
        """Judge allocations, in order. Those with the same actions at all sampling steps are one candidate.

        Raises:
            ValueError: :meth:`measure` gave another number of qualities.
        """
        start = time.perf_counter()
        samplings = [self.problem.in_words(allocation) for allocation in allocations]
        todo: dict[str, StepAllocation] = {}
        quality: dict[str, float] = {}
        cache = self.problem.cache
        for steps, allocation in zip(samplings, allocations):
            found = None if cache is None else cache.get(self.key(steps), ['quality'])
            if found is not None and found['quality'].numel() == 1:
                quality[steps] = float(found['quality'])
            else:
                todo.setdefault(steps, allocation)
        if todo:
            measured = [float(value) for value in self.measure(list(todo.values()))]
            if len(measured) != len(todo):
                raise ValueError(f'{type(self).__name__}.measure gave {len(measured)} qualities for {len(todo)} '
                                 'allocations; it must give one for each, in order.')
            for steps, value in zip(todo, measured):
                quality[steps] = value
                if cache is not None:
                    cache.put(self.key(steps), {'quality': torch.tensor(value, dtype=torch.float64)})
        self._work.seconds += time.perf_counter() - start
        return [self._judge(allocation, steps, quality[steps]) for allocation, steps in zip(allocations, samplings)]

    def _judge(self, allocation: StepAllocation, steps: str, value: float) -> Evaluation:
        if math.isfinite(value):
            return self.problem.judged(allocation, value)
        return self.problem.judged(allocation, math.nan, f'{type(self).__name__} gave {value} for {steps}')
