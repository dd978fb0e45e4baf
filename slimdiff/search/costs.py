"""What an allocation costs: MACs and, if measured, seconds, for one image through the whole sampling."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimdiff.evaluation.cost import count_cost
from slimdiff.evaluation.throughput import Timing, seconds_of, take_turns
from slimdiff.evaluation.unet_cost import context_length_of, fitting_inputs
from slimdiff.models.backbones.protocol import ReusableFeatures, network_of, require
from slimdiff.sampling import Run, StepAllocation
from slimdiff.sampling.actions import ByRun


@dataclass(frozen=True)
class NetworkCosts:
    """Of one call of the network for one image, by width and depth.

    Args:
        macs_of: run -> MACs, published convention (convolutions and linear layers); a width is the run at full depth.
        shallow_of: run -> MACs of the shallow part, which ``Reuse('features')`` runs; None without such.
        seconds_of, shallow_seconds_of: the same in seconds; None if not measured.
        calls_per_step: 2 with classifier-free guidance.
    """

    macs_of: Mapping[Run, float]
    shallow_of: Mapping[Run, float] | None = None
    seconds_of: Mapping[Run, float] | None = None
    shallow_seconds_of: Mapping[Run, float] | None = None
    calls_per_step: int = 1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self)[:-1]:
            values = getattr(self, field.name)
            object.__setattr__(self, field.name, None if values is None else ByRun(values))

    def macs(self, allocation: StepAllocation, timesteps: Sequence[float]) -> float:
        """MACs for one image."""
        return self.calls_per_step * allocation.macs(timesteps, self.macs_of, self.shallow_of)

    def full(self, timesteps: Sequence[float]) -> float:
        """MACs for one image of the widest and deepest network at every step."""
        return self.calls_per_step * len(timesteps) * self.macs_of[max(self.macs_of)]

    def latency(self, allocation: StepAllocation, timesteps: Sequence[float]) -> float | None:
        """Seconds for one image: of its network calls, in batches as they were measured."""
        if self.seconds_of is None:
            return None
        return self.calls_per_step * allocation.macs(timesteps, self.seconds_of, self.shallow_seconds_of)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: [[*dataclasses.astuple(run), cost] for run, cost in sorted(value.items())]
                if isinstance(value, Mapping) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NetworkCosts:
        return cls(**{name: {Run(*run): cost for *run, cost in value} if isinstance(value, list) else value
                      for name, value in data.items()})

    def with_latency(self, model: Any, batch_size: int = 8, rounds: int = 5) -> NetworkCosts:
        """A copy with seconds per image, measured here: the median of ``rounds`` in which the networks take turns."""
        inputs, kwargs = fitting_inputs(model.unet, context_length_of(model), batch_size)
        device = next(model.unet.parameters()).device
        networks = {('run', run): network_of(model.unet, run).eval() for run in self.macs_of}
        networks |= {('shallow', run): _Shallow(network_of(model.unet, run), inputs, kwargs)
                     for run in self.shallow_of or ()}
        clocks = {name: lambda network=network: seconds_of(lambda: network(*inputs, **kwargs), device)
                  for name, network in networks.items()}
        timings = {name: Timing() for name in clocks}
        with torch.inference_mode():
            take_turns(clocks, {name: Timing() for name in clocks}, 1)  # the first calls are slower
            take_turns(clocks, timings, rounds)
        seconds = {name: timing.latency()['p50'] / batch_size for name, timing in timings.items()}
        shallow = None if self.shallow_of is None else {run: seconds['shallow', run] for run in self.shallow_of}
        return dataclasses.replace(self, seconds_of={run: seconds['run', run] for run in self.macs_of},
                                   shallow_seconds_of=shallow)


class _Shallow(nn.Module):
    """The shallow part of a network, around features of these inputs."""

    def __init__(self, network: nn.Module, inputs: Sequence[Tensor], kwargs: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.network = network.eval()
        with torch.no_grad():
            _, features = network.with_features(*inputs, **kwargs)
        self.register_buffer('features', features)

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None,
                encoder_hidden_states: Tensor | None = None, **kwargs: Any) -> Any:
        return self.network.shallow(sample, timestep, class_labels, encoder_hidden_states, self.features)


def count_macs(model: Any, runs: Iterable[Run | float], features: bool = False) -> NetworkCosts:
    """Count the network of ``model`` at each run or width, and its shallow part if ``features`` are reused.

    Raises:
        ValueError: features of a network that has none to reuse.
    """
    if features:
        require(model.unet, ReusableFeatures, 'To reuse features', "reuse the 'prediction'")
    inputs, kwargs = fitting_inputs(model.unet, context_length_of(model))

    def count(network: nn.Module) -> float:
        with torch.no_grad():
            return float(count_cost(network, *inputs, **kwargs).conv_linear_macs)

    runs = list(runs)
    shallow = {r: count(_Shallow(network_of(model.unet, r), inputs, kwargs)) for r in runs} if features else None
    return NetworkCosts({run: count(network_of(model.unet, run).eval()) for run in runs}, shallow,
                        calls_per_step=calls_per_step(model))


def calls_per_step(model: Any) -> int:
    """2 if the model samples with classifier-free guidance, else 1."""
    conditional = getattr(model, 'num_classes', None) is not None or getattr(model, 'conditioner', None) is not None
    return 2 if conditional and getattr(model, 'guidance_scale', 1) != 1 else 1
