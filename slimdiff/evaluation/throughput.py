"""How fast networks denoise, side by side.

The throughput of Spectral Diffusion (Yang et al. 2023, supplement, section 4.1): denoising time steps per second, the
decoder excluded. A time step is one run of the UNet on one image, so a batch of 8 takes eight of them.

Machines are noisy, and their noise comes in spells. So the networks take turns, and speed-ups are ratios within a
round, of which the median is given: what slows a round down slows all of it down.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Step = Callable[[], object]

#: name on the command line -> what it means
DTYPES = {
    'fp32': 'float32',
    'bf16': 'bfloat16 weights and inputs',
    'bf16-autocast': 'bfloat16 autocast over float32 weights',
}
PERCENTILES = (50, 90, 99)


@dataclass
class Timing:
    """Seconds of one network's steps, by turn."""

    turns: list[list[float]] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        return [s for turn in self.turns for s in turn]

    def latency(self) -> dict[str, float]:
        """Percentiles of the seconds that a step of the batch takes: ``dict(p50=..., p90=..., p99=...)``."""
        return {f'p{q}': float(np.percentile(self.seconds, q)) for q in PERCENTILES}

    def throughput(self, batch_size: int) -> float:
        """Time steps per second: of all images of the batch, at the median latency."""
        return batch_size / self.latency()['p50']


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = np.percentile(values, (25, 50, 75)).tolist()
    return dict(median=middle, q25=low, q75=high)


def speed_up(first: Timing, other: Timing) -> dict[str, float]:
    """How many times faster than ``first`` a network is: median and quartiles of the ratios, round by round."""
    return spread([np.mean(a) / np.mean(b) for a, b in zip(first.turns, other.turns)])


def compare(first: Timing, other: Timing, macs: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """The speed-up next to the ratio of MACs, and their quotient, the efficiency.

    An efficiency of 1 means that a multiply-accumulate of the smaller network costs as much time as one of the first.

    Args:
        macs: convention -> (MACs of the first network, of the other).
    """
    gain = speed_up(first, other)
    ratios = {name: a / b for name, (a, b) in macs.items()}
    return dict(speed_up=gain, macs_ratio=ratios,
                efficiency={name: gain['median'] / ratio for name, ratio in ratios.items()})


def take_turns(clocks: Mapping[str, Callable[[], float]], timings: Mapping[str, Timing], rounds: int, steps: int = 1,
               on_step: Callable[[], None] = lambda: None) -> None:
    """Let every network run ``steps`` steps a round, in turn, and note the seconds in ``timings``.

    The order reverses every other round. Interrupted, ``timings`` holds all turns that were finished.

    Args:
        clocks: name -> a function that makes one step and returns its seconds.
        on_step: called after each step.
    """
    for i in range(rounds):
        names = list(clocks)
        for name in names if i % 2 == 0 else names[::-1]:
            turn = []
            for _ in range(steps):
                turn.append(clocks[name]())
                on_step()
            timings[name].turns.append(turn)


def seconds_of(step: Step, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one step: by events on a GPU, by the clock elsewhere."""
    if device.type == 'cuda':
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000
    start = clock()
    step()
    return clock() - start


def memory_rise(step: Step, device: torch.device) -> int:
    """Bytes that PyTorch's allocator holds during a step above what it held before, at the worst moment.

    What libraries allocate by themselves (oneDNN's or cuDNN's workspaces) isn't in it.
    """
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # or its start and stop go to stderr
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == '[memory]']
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return int(max(np.cumsum(sizes), default=0))


def denoising_step(unet: nn.Module, inputs: Sequence[Tensor], kwargs: Mapping[str, Tensor], dtype: str = 'fp32',
                   device: torch.device | str = 'cpu') -> Step:
    """``step()`` runs the network once, as a sampler does; network and inputs are moved and cast here.

    Args:
        inputs, kwargs: noisy images and all else that the network takes.
        dtype: a key of ``DTYPES``.
    """
    if dtype not in DTYPES:
        raise ValueError(f'dtype: got {dtype!r}; choose one of {", ".join(DTYPES)}.')
    device = torch.device(device)
    weights = torch.bfloat16 if dtype == 'bf16' else torch.float32
    unet = nn.Module.to(unet, device, weights).eval()  # diffusers' own `to` warns of every cast
    inputs = [x.to(device, weights) if x.is_floating_point() else x.to(device) for x in inputs]
    kwargs = {k: x.to(device, weights) if x.is_floating_point() else x.to(device) for k, x in kwargs.items()}
    autocast = dtype == 'bf16-autocast'

    @torch.inference_mode()
    def step() -> object:
        with torch.autocast(device.type, torch.bfloat16) if autocast else nullcontext():
            return unet(*inputs, **kwargs)

    return step
