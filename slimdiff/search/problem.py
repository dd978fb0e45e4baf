"""What is given in a search: the model, its sampler, the data and what the network costs."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffusers import SchedulerMixin
from torch.utils.data import DataLoader

from slimdiff.checkpoint.tensor_store import TensorStore, content_key
from slimdiff.datasets.fingerprint import dataset_fingerprint
from slimdiff.models.serving import sampling_identity
from slimdiff.sampling import Action, StepAllocation, build_scheduler
from slimdiff.sampling.denoise import timesteps_of
from slimdiff.search.costs import NetworkCosts
from slimdiff.search.evaluation import Evaluation


@dataclass
class Problem:
    """What evaluators work with.

    Args:
        model: an algorithm, whose ``unet`` is slimmable.
        scheduler: that samples, built on the model's noise schedule.
        num_steps: of the sampling.
        costs: of the network.
        dataloader: of real images, for evaluators that need them.
        cache: where qualities are kept; None keeps them nowhere.
    """

    model: Any
    scheduler: SchedulerMixin
    num_steps: int
    costs: NetworkCosts
    dataloader: DataLoader | None = None
    cache: TensorStore | None = None

    @functools.cached_property
    def timesteps(self) -> tuple[float, ...]:
        """Of the sampler, in its order."""
        return tuple(timesteps_of(self.scheduler, self.num_steps))

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """Of everything that decides what an allocation samples: weights, schedules, guidance, number of steps."""
        return sampling_identity(self.model, self.scheduler, self.num_steps)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of :attr:`identity`."""
        return content_key(json.dumps(self.identity, sort_keys=True)).hex()

    @functools.cached_property
    def data_fingerprint(self) -> str:
        """Of the real images."""
        return '' if self.dataloader is None else dataset_fingerprint(self.dataloader.dataset)

    def timesteps_under(self, allocation: StepAllocation) -> tuple[float, ...]:
        """The allocation's own timesteps, or the sampler's."""
        return allocation.timesteps or self.timesteps

    def scheduler_of(self, allocation: StepAllocation) -> SchedulerMixin:
        """The sampler, at the timesteps of the allocation if it has some."""
        if allocation.timesteps is None:
            return self.scheduler
        return build_scheduler({'timesteps': list(allocation.timesteps)}, base=self.scheduler)

    def actions(self, allocation: StepAllocation) -> list[Action]:
        """What is done at each sampling step."""
        return allocation.taken(self.timesteps_under(allocation))

    def in_words(self, allocation: StepAllocation) -> str:
        """What an allocation does at all steps, in a line: equal lines are equal samplings."""
        text = in_words(self.actions(allocation))
        return text if allocation.timesteps is None else (
            f'{text} at {" ".join(f"{t:.17g}" for t in allocation.timesteps)}')

    def judged(self, allocation: StepAllocation, quality: float, reason: str = '') -> Evaluation:
        """An evaluation with the costs filled in; with a ``reason`` the candidate has failed."""
        times = self.timesteps_under(allocation)
        return Evaluation(quality, self.costs.macs(allocation, times), self.costs.latency(allocation, times),
                          bool(reason), reason)


def in_words(actions: Sequence[Action]) -> str:
    """A sequence of actions in a line: ``20 x width 0.5, 30 x width 1``."""
    return ', '.join(f'{len(list(group))} x {action}' for action, group in itertools.groupby(actions))
