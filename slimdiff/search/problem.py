"""What is given in a search: the model, its sampler, the data and what the network costs."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffusers import SchedulerMixin
from torch import nn
from torch.utils.data import DataLoader

from slimdiff.checkpoint.tensor_store import TensorStore, content_key, network_fingerprint
from slimdiff.sampling import Action, StepAllocation
from slimdiff.sampling.denoise import eta_of, prepared
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
        return tuple(float(t) for t in prepared(self.scheduler, self.num_steps).timesteps)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of everything that decides what an allocation samples: weights, schedules, guidance, number of steps."""
        parts = [getattr(self.model, name, None) for name in ('unet', 'autoencoder', 'conditioner')]
        weights = [network_fingerprint(part) if isinstance(part, nn.Module) else '' for part in parts]
        schedulers = [(type(s).__name__, sorted((k, str(v)) for k, v in s.config.items() if not k.startswith('_')))
                      for s in (self.scheduler, getattr(self.model, 'noise_scheduler', self.scheduler))]
        eta = [eta_of(self.scheduler)] if eta_of(self.scheduler) else []
        settings = [self.num_steps, *eta, getattr(self.model, 'guidance_scale', 1),
                    list(getattr(self.model, 'sample_captions', []))]
        return content_key(json.dumps([weights, schedulers, settings])).hex()

    @functools.cached_property
    def data_fingerprint(self) -> str:
        """Of the real images: how many there are, and the content of the first eight."""
        if self.dataloader is None:
            return ''
        dataset = self.dataloader.dataset
        first = [dataset[i].get('inputs') for i in range(min(8, len(dataset)))]
        return content_key(str(len(dataset)), *first).hex()

    def actions(self, allocation: StepAllocation) -> list[Action]:
        """One for each sampling step."""
        return allocation.actions(self.timesteps)

    def judged(self, allocation: StepAllocation, quality: float, reason: str = '') -> Evaluation:
        """An evaluation with the costs filled in; with a ``reason`` the candidate has failed."""
        return Evaluation(quality, self.costs.macs(allocation, self.timesteps),
                          self.costs.latency(allocation, self.timesteps), bool(reason), reason)


def in_words(actions: Sequence[Action]) -> str:
    """A sequence of actions in a line: ``20 x width 0.5, 30 x width 1``."""
    return ', '.join(f'{len(list(group))} x {action}' for action, group in itertools.groupby(actions))
