"""Networks of several widths that do the same: what they must share, their names in a config, their memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from slimdiff.functional.process import NoiseProcess
from slimdiff.sampling import Run, StepAllocation, noise_process


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of parameters and buffers.

    Args:
        networks: of each run that is kept.
        full: of the widest network, kept or not.
    """
    networks: Mapping[Run, int]
    full: int

    @property
    def total(self) -> int:
        return sum(self.networks.values())

    def __str__(self) -> str:
        parts = ', '.join(f'{run}: {size / 1e6:.4g} MB' for run, size in self.networks.items())
        return (f'{self.total / 1e6:.4g} MB in {len(self.networks)} network(s) ({parts}), '
                f'{self.total / self.full:.2f} times the full one')


def key_of(run: Run) -> str:
    """A name for a submodule; it must not contain a dot."""
    return (f'width_{run.width}' + ('' if run.depth == 1 else f'_depth_{run.depth}')).replace('.', '_')


def size_of(module: nn.Module) -> int:
    """Bytes of its parameters and buffers."""
    tensors: Iterable[Tensor] = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def arguments_of(network: nn.Module) -> dict[str, Any]:
    """What a network was made with."""
    return {key: value for key, value in network.config.items() if not key.startswith('_')}


def description_of(network: nn.Module) -> dict[str, Any]:
    """What makes a network again: the name of its class, and its arguments."""
    return {'class': type(network).__name__, 'config': arguments_of(network)}


def check_alike(networks: Mapping[Run, nn.Module]) -> None:
    """Raise ValueError unless all networks take and give the same."""
    for key in ('in_channels', 'out_channels', 'sample_size', 'num_classes', 'num_class_embeds', 'class_token',
                'context_channels', 'cross_attention_dim', 'preconditioning'):
        values = {run: network.config.get(key) for run, network in networks.items()}
        first, *others = values.values()
        if any(other != first for other in others):
            listed = ', '.join(f'{value} at {run}' for run, value in values.items())
            raise ValueError('StepAwareUNet: the networks must take the same input and give the same output, but '
                             f'{key} is {listed}.')


def check_timesteps(allocation: StepAllocation, network: nn.Module) -> None:
    """Raise ValueError for other training timesteps than those that a preconditioned network knows."""
    schedule = (network.config.get('preconditioning') or {}).get('schedule')
    if schedule is not None:
        check_same_timesteps(allocation, noise_process(schedule))


def check_same_timesteps(allocation: StepAllocation, process: NoiseProcess) -> None:
    """Raise ValueError unless the allocation is for timesteps of this process."""
    if allocation.process != process.name:
        raise ValueError(f'The allocation is for the noise process {allocation.process}, the model is trained on '
                         f'{process.name}, where its timesteps are other noise levels. Search an allocation with this '
                         'model, or convert it by StepAllocation.translated.')
    if allocation.num_train_timesteps != process.num_train_timesteps:
        raise ValueError(f'The allocation is for {allocation.num_train_timesteps} training timesteps '
                         f'(num_train_timesteps), the model has {process.num_train_timesteps}. Search an allocation '
                         'with this model.')
