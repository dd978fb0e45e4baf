"""What is compared: a model under a step allocation, or another model as it is; and the plain allocations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from diffusers import SchedulerMixin
from torch import nn

from slimdiff.evaluation.unet_cost import context_length_of, unet_cost
from slimdiff.models.backbones import StepAwareUNet
from slimdiff.models.backbones.protocol import network_of, runs_of
from slimdiff.sampling import StepAllocation, build_scheduler
from slimdiff.sampling.allocation import PROCESSES
from slimdiff.sampling.denoise import timesteps_of
from slimdiff.search.costs import NetworkCosts, calls_per_step
from slimdiff.search.supernet import in_place

#: equal segments of a random allocation
SEGMENTS = 8
#: draws of which a random allocation is the most expensive within the budget
DRAWS = 200


@dataclass
class Rival:
    """One row of a comparison.

    Args:
        model: that samples.
        costs: of its network's widths; {1.0: ...} for a network of one width.
        allocation: of its steps; uniform at 1 for a network of one width.
        network: in place of the model's own while it samples; None leaves that.
    """

    model: Any
    costs: NetworkCosts
    allocation: StepAllocation
    network: nn.Module | None = None

    @classmethod
    def under(cls, model: Any, costs: NetworkCosts, allocations: Mapping[str, StepAllocation]) -> dict[str, Rival]:
        """A slimmable model under each of some allocations: every width is cut out once, for all that use it.

        Raises:
            ValueError: widths that the network has not, or another number of training timesteps.
        """
        runs = {run for allocation in allocations.values() for run in allocation.runs}
        for allocation in allocations.values():
            allocation.check_runs(runs_of(model.unet))
        networks = {run: network_of(model.unet, run) for run in sorted(runs)}
        return {name: cls(model, costs, allocation, StepAwareUNet(networks, allocation).eval())
                for name, allocation in allocations.items()}

    @classmethod
    def dense(cls, model: Any) -> Rival:
        """A model whose network has one width, as it is."""
        costs = NetworkCosts({1.0: float(unet_cost(model, context_length_of(model)).conv_linear_macs)},
                             calls_per_step=calls_per_step(model))
        return cls(model, costs, StepAllocation.uniform(1.0, model.num_train_timesteps, model.noise_process.name))

    def macs(self, scheduler: SchedulerMixin, num_steps: int) -> float:
        """MACs of one image: published convention (convolutions and linear layers), guidance included."""
        return self.costs.macs(self.allocation, timesteps_of(scheduler, num_steps))

    def scheduler(self, sampler: Any, num_steps: int) -> SchedulerMixin:
        """What it samples with: ``sampler``, at the timesteps of the allocation if that has some.

        Raises:
            ValueError: a sampler that doesn't fit, or another number of steps than of these timesteps.
        """
        found, timesteps = self.model.sampler_of(sampler, num_steps), self.allocation.timesteps
        if timesteps is None:
            return found
        if len(timesteps) != num_steps:
            raise ValueError(f'An allocation has {len(timesteps)} timesteps of its own, but is compared at {num_steps} '
                             f'steps: give samplers of {len(timesteps)} steps (--samplers NAME:{len(timesteps)}).')
        return build_scheduler({'timesteps': list(timesteps)}, base=found)

    def sampling(self) -> AbstractContextManager:
        """Within this context the model runs this rival's network."""
        return nullcontext() if self.network is None else in_place(self.model, self.network)


def baselines(costs: NetworkCosts, timesteps: Sequence[float], total: int, budget: float, seed: int = 0,
              process: str = PROCESSES[0]) -> dict[str, StepAllocation]:
    """The plain allocations: uniform ones, T-Stitch's prefix and a random one that use the budget.

    Args:
        costs: of the widths.
        timesteps: of the sampler that the budget is meant for.
        total, process: training timesteps, and of which noise process.
        budget: MACs as a fraction of the full network's, for the prefix and the random one.
        seed: of the random one.

    Raises:
        ValueError: a budget below the narrowest width's MACs, or not below 1.
    """
    runs = sorted(costs.macs_of)
    share = {run: costs.macs_of[run] / costs.macs_of[runs[-1]] for run in runs}
    if not share[runs[0]] < budget < 1:
        raise ValueError(f'The budget must lie between {share[runs[0]]:.3f}, what the narrowest width takes, and 1; '
                         f'got {budget}.')
    found = {f'uniform {run.size}': StepAllocation.uniform(run, total, process) for run in reversed(runs[1:-1])}
    # The widest of the narrow networks that leaves the wide one some steps: T-Stitch joins two networks.
    narrow = max((run for run in runs if share[run] < budget), key=share.get)
    fraction = (1 - budget) / (1 - share[narrow])
    found['prefix'] = StepAllocation.prefix(narrow, runs[-1], fraction, total, process)
    found['random'] = random_within(costs, timesteps, total, budget, seed, process)
    return found


def random_within(costs: NetworkCosts, timesteps: Sequence[float], total: int, budget: float, seed: int,
                  process: str = PROCESSES[0]) -> StepAllocation:
    """Of some random allocations of equal segments the most expensive within the budget, so that it nearly uses it up.

    Raises:
        ValueError: none is within it.
    """
    limit = budget * costs.full(timesteps)
    drawn = [StepAllocation.random(sorted(costs.macs_of), SEGMENTS, seed * DRAWS + i, total, process)
             for i in range(DRAWS)]
    within = [allocation for allocation in drawn if costs.macs(allocation, timesteps) <= limit]
    if not within:
        raise ValueError(f'None of {DRAWS} random allocations of {SEGMENTS} segments is within {budget:.3g} of the '
                         'full network: choose a larger budget.')
    return max(within, key=lambda allocation: costs.macs(allocation, timesteps))


def merged(first: Mapping[str, Any], *others: Mapping[str, Any]) -> dict[str, Any]:
    """Rivals by name.

    Raises:
        ValueError: two of one name.
    """
    found = dict(first)
    for other in others:
        for name, value in other.items():
            if name in found:
                raise ValueError(f"Two rivals are called '{name}'; give one of them another name.")
            found[name] = value
    return found
