"""Many samplings of the same noise at once: those that agree on their first k steps share these k network calls."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from slimdiff.sampling.denoise import first_input, network_timesteps, prepared, scaled, step_options

#: ``call(action, x_t, t, memory) -> prediction, memory``: what a step's action does, and what it leaves to the next one
Call = Callable[[Any, Tensor, Tensor, Any], tuple[Tensor, Any]]


class Branch:
    """One sampling between two steps: everything that its future depends on."""

    def __init__(self, x: Tensor, scheduler: SchedulerMixin, generators: Sequence[torch.Generator] | None,
                 eta: float | None, memory: Any = None) -> None:
        self.x, self.scheduler, self.eta, self.memory = x, scheduler, eta, memory
        self.generators = None if generators is None else list(generators)

    def fork(self) -> Branch:
        """A copy that goes on by itself; tensors of ``x`` and ``memory`` are shared, as no step writes into one."""
        generators = self.generators
        if generators is not None:
            generators = [torch.Generator(g.device).set_state(g.get_state()) for g in generators]
        return Branch(self.x, copy.deepcopy(self.scheduler), generators, self.eta, self.memory)

    def step(self, call: Call, action: Any, t: Tensor, told: Tensor) -> None:
        """Take the step of the scheduler's timestep ``t``, of which the network is told ``told``."""
        prediction, self.memory = call(action, scaled(self.scheduler, self.x, t), told, self.memory)
        options = step_options(self.scheduler, self.generators, self.eta)
        self.x = self.scheduler.step(prediction, t, self.x, **options, return_dict=False)[0]


@torch.no_grad()
def sample_tree(call: Call,
                scheduler: SchedulerMixin,
                noise: Tensor,
                num_steps: int,
                sequences: Sequence[Sequence[Hashable]],
                generators: Sequence[torch.Generator] | None = None,
                eta: float | None = None) -> Iterator[tuple[list[int], Tensor]]:
    """Denoise ``noise`` (N, C, H, W) once for each sequence of actions; the arguments are those of ``denoise``.

    The sequences form a trie that is walked depth first: at a fork the sampler with its history and the generators
    are copied. At most as many states are alive as there are forks above one another.

    Yields:
        The sequences (indices) that a result is for, and the clean samples (N, C, H, W), when a leaf is reached.

    Raises:
        ValueError: a sequence of another length than the sampler has steps.
    """
    scheduler = prepared(scheduler, num_steps, noise.device)
    timesteps, told = scheduler.timesteps, network_timesteps(scheduler)
    for sequence in sequences:
        if len(sequence) != len(timesteps):
            raise ValueError(f'{len(sequence)} actions for the {len(timesteps)} steps of '
                             f'{type(scheduler).__name__}.')
    if not sequences:
        return
    stack = [(0, list(range(len(sequences))), Branch(first_input(scheduler, noise), scheduler, generators, eta))]
    while stack:
        step, members, branch = stack.pop()
        for k in range(step, len(timesteps)):
            groups: dict[Hashable, list[int]] = {}
            for member in members:
                groups.setdefault(sequences[member][k], []).append(member)
            (action, members), *others = groups.items()
            stack += [(k, part, branch.fork()) for _, part in reversed(others)]
            branch.step(call, action, timesteps[k], told[k])
        yield members, branch.x
