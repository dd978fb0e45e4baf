"""Gates of wavelet-gated resampling over the timesteps (Yang et al. 2023, section 4.2).

A gate knows the timestep only through its input. Whether it opens for high frequencies when the noise is nearly gone,
as the paper has it, is seen by recording it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimdiff.evaluation.common import device_of, evaluating
from slimdiff.evaluation.record import rounded
from slimdiff.models.backbones.protocol import bare, name_of
from slimdiff.models.resamplers.gate import BandGate
from slimdiff.sampling import mix_seed

#: the bands in the order of the gates; H and V as in PyWavelets, horizontal and vertical details
BANDS = ('cA', 'cH', 'cV', 'cD')


def find_gates(network: nn.Module) -> dict[str, BandGate]:
    """The gates of a network by the name of their resampler, in the order of its modules (down1 ... up1).

    Raises:
        ValueError: a network without any; says which resamplers it has.
    """
    gates = {name.removesuffix('.gate'): module for name, module in bare(network).named_modules()
             if isinstance(module, BandGate)}
    if not gates:
        kinds = sorted({type(module).__name__ for name, module in network.named_modules()
                        if name.endswith(('downsampler', 'upsampler')) and module is not None})
        raise ValueError(f'{name_of(network)} has no gates: its resamplers are {", ".join(kinds) or "none"}. '
                         'Gates are in WaveletGatedDown and WaveletGatedUp.')
    return gates


class GateStatistics:
    """Mean and spread of gates, by timestep and resampler, added up batch by batch.

    Every figure is per band. A gate has one value for each sample and channel; their spread has two parts, that
    between samples (of the mean over channels) and that between channels (of the mean over samples).
    """

    def __init__(self) -> None:
        # (name, t) -> samples, sum over them (4, C), sum of squares of their mean over channels (4,)
        self._sums: dict[tuple[str, int], list[Any]] = {}

    def add(self, name: str, t: int, gates: Tensor) -> None:
        """Gates (N, 4, C) at timestep t."""
        gates = gates.detach().double().cpu()
        entry = self._sums.setdefault((name, t), [0, 0.0, 0.0])
        entry[0] += len(gates)
        entry[1] = entry[1] + gates.sum(0)
        entry[2] = entry[2] + gates.mean(2).square().sum(0)

    @property
    def timesteps(self) -> list[int]:
        """Those seen, from noise to image."""
        return sorted({t for _, t in self._sums}, reverse=True)

    def describe(self) -> dict[str, Any]:
        """``dict(timesteps, samples, gates={resampler: dict(mean, std_samples, std_channels)})``, each (T, 4) lists."""
        names = dict.fromkeys(name for name, _ in self._sums)
        result: dict[str, Any] = dict(timesteps=self.timesteps,
                                      samples=max((entry[0] for entry in self._sums.values()), default=0), gates={})
        for name in names:
            rows = [self._row(*self._sums[name, t]) for t in self.timesteps]
            result['gates'][name] = {key: rounded(torch.stack([row[key] for row in rows])) for key in rows[0]}
        return result

    @staticmethod
    def _row(samples: int, total: Tensor, squares: Tensor) -> dict[str, Tensor]:
        channels = total / samples  # (4, C)
        mean = channels.mean(1)
        return dict(mean=mean, std_samples=(squares / samples - mean.square()).clamp_min(0).sqrt(),
                    std_channels=channels.std(1, correction=0))


class GateRecorder:
    """Records into :class:`GateStatistics` all gates of a network while it is called.

    A context manager. The timestep is that of the call, a scalar or one for each sample; the network must be called
    as ``network(x, t, ...)``.

    Raises:
        ValueError: a network without gates.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network, self.gates = network, find_gates(network)
        self.statistics = GateStatistics()
        self._t: Tensor | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> GateRecorder:
        self._handles = [self.network.register_forward_pre_hook(self._before, with_kwargs=True)]
        self._handles += [gate.register_forward_hook(self._hook(name)) for name, gate in self.gates.items()]
        return self

    def __exit__(self, *error: Any) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(self, network: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._t = torch.as_tensor(args[1] if len(args) > 1 else kwargs['timestep']).cpu()

    def _hook(self, name: str) -> Callable[..., None]:
        def record(module: nn.Module, inputs: Any, gates: Tensor) -> None:
            times = self._t.expand(len(gates))
            for t in times.unique().tolist():
                self.statistics.add(name, int(t), gates[(times == t).to(gates.device)])

        return record


def even_timesteps(count: int, num_train_timesteps: int = 1000) -> list[int]:
    """``count`` timesteps from the last to 0, evenly spaced.

    Raises:
        ValueError: fewer than two.
    """
    if not 2 <= count <= num_train_timesteps:
        raise ValueError(f'timesteps: got {count}; choose 2 to {num_train_timesteps}.')
    return [round((num_train_timesteps - 1) * i / (count - 1)) for i in reversed(range(count))]


def gates_on_noised_images(model: Any, images: Tensor, labels: Tensor | None, timesteps: Sequence[int], seed: int = 0,
                           batch_size: int = 64, on_batch: Callable[[int], None] = lambda n: None) -> GateStatistics:
    """Gates on noised real images (N, C, H, W): image i has the same noise, of (seed, i), at every timestep."""
    device = device_of(model)
    with GateRecorder(model.unet) as recorder, evaluating(model):
        for start in range(0, len(images), batch_size):
            x0 = model.encode(images[start:start + batch_size].to(device))
            noise = torch.stack([torch.randn(x0.shape[1:], generator=torch.Generator().manual_seed(mix_seed(seed, i)))
                                 for i in range(start, start + len(x0))]).to(x0)
            part = None if labels is None else labels[start:start + batch_size].to(device)
            for step in timesteps:
                t = model.noise_process.timesteps(torch.full((len(x0), ), float(step), device=device))
                model.predict(model.add_noise(x0, noise, t), t, part)
                on_batch(len(x0))
    return recorder.statistics


def gates_while_sampling(model: Any, num_images: int, seed: int = 0, batch_size: int = 64,
                         num_steps: int | None = None, on_batch: Callable[[int], None] = lambda n: None
                         ) -> GateStatistics:
    """Gates along the model's own sampling, without guidance (its second half of the batch has no class)."""
    with GateRecorder(model.unet) as recorder, evaluating(model):
        for start in range(0, num_images, batch_size):
            part = range(start, min(start + batch_size, num_images))
            model.sample(part, seed=seed, num_steps=num_steps, guidance_scale=1.0,
                         on_step=functools.partial(on_batch, len(part)))
    return recorder.statistics
