"""The middle rung: how far an allocation's samples are from the full network's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from slimdiff.progress import Progress
from slimdiff.registry import EVALUATORS
from slimdiff.sampling import StepAllocation
from slimdiff.search.evaluators.sampling import SamplingEvaluator


@EVALUATORS.register_module()
class DivergenceEvaluator(SamplingEvaluator):
    """Quality = mean squared distance of the clean samples x0 to those of the widest width at every step.

    Both start from the same noise and, with a stochastic sampler, draw the same noise on the way, so few images are
    enough: there is no sampling noise between two allocations. It sees how errors of early steps are corrected or
    carried on, which the loss gap can't. It takes the full network for the truth: a sampler that needs every step of
    it to be exact diverges without being worse, so check it against a Frechet distance (the rank correlation that a
    search prints).

    Distances are in the space that the network works in: [-1, 1] pixels, or scaled latents.

    Args:
        reference_steps: of the full network's sampling; by default as many as the allocations have, at the sampler's
            timesteps. More make it a measure of the sampler's error, too, which a search of timesteps needs
            (``search.space.levels``). Of use with deterministic samplers alone.
        num_images, batch_size, seed, amp: see
            :class:`~slimdiff.search.evaluators.sampling.SamplingEvaluator`.
    """

    def __init__(self, num_images: int = 64, batch_size: int = 64, seed: int = 0, amp: bool = False,
                 reference_steps: int | None = None) -> None:
        super().__init__(num_images, batch_size, seed, amp)
        if reference_steps is not None:  # else it is no setting: qualities that were kept stay valid
            self.reference_steps = reference_steps

    @property
    def moves_timesteps(self) -> bool:
        return hasattr(self, 'reference_steps')

    def prepare(self) -> None:
        super().prepare()
        self._reference: list[Tensor] = []
        problem = self.problem
        steps = getattr(self, 'reference_steps', None)
        if steps is not None:
            problem = dataclasses.replace(problem, num_steps=steps)
        full = StepAllocation.uniform(max(problem.costs.macs_of), problem.model.num_train_timesteps,
                                      problem.model.noise_process.name)
        for batch in self.shown_batches('sampling the full network'):
            key = self.key(f'reference {batch.start}..{batch.stop}')
            found = None if problem.cache is None else problem.cache.get(key, ['x0'])
            if found is None:
                found = {'x0': next(x0 for _, x0 in list(self.samples([full], batch, problem))).float().cpu()}
                if problem.cache is not None:
                    problem.cache.put(key, found)
            self._reference.append(found['x0'])

    def measure(self, allocations: Sequence[StepAllocation]) -> list[float]:
        sums = torch.zeros(len(allocations), dtype=torch.float64)
        with Progress(self.num_images * len(allocations), 'judging') as bar:
            for batch, reference in zip(self.batches(), self._reference, strict=True):
                for members, x0 in self.samples(allocations, batch):
                    distance = (x0.cpu().double() - reference.double()).square().mean((1, 2, 3)).sum()
                    sums[members] += distance
                    bar.update(len(batch) * len(members))
        return (sums / self.num_images).tolist()
