"""What a training step draws: functions of its seed, the same on one rank as on many.

Every rank gives the same seed, draws for the whole batch and takes its part, so that two ranks with B samples train
exactly as one with 2B, and a resumed run needs no generator state. Without a seed PyTorch's own generator draws.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from torch import Tensor, nn

from slimdiff.functional.process import NoiseProcess

#: added to a step's seed for the posterior: beyond the 32 bits of step seeds, so that no other step draws the same
POSTERIOR = 2**32
#: probability of leaving the condition out in training, for classifier-free guidance
CLASS_DROPOUT = 0.1


@dataclasses.dataclass
class NoisedBatch:
    """What the network sees in an iteration, and what it was made of."""
    x0: Tensor
    noise: Tensor
    t: Tensor
    x_t: Tensor
    labels: Tensor | None = None
    context: Tensor | None = None
    caption: list[str] | None = None

    def first(self, count: int) -> NoisedBatch:
        """The first samples alone."""
        if count >= len(self.x0):
            return self
        return NoisedBatch(**{field.name: None if (value := getattr(self, field.name)) is None else value[:count]
                              for field in dataclasses.fields(self)})


def draw_step(batch: int, shape: Sequence[int], process: NoiseProcess, dropout: float, seed: int | None,
              device: torch.device, **timestep_sampling: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Timesteps (N,), noise (N, *shape) and the mask (N,) of dropped conditions, of this rank's batch.

    Args:
        batch: N, samples of a rank.
        process: gives the timesteps.
        dropout: probability of dropping a condition.
        timestep_sampling: see :func:`draw_timesteps`.
    """
    generator = _generator(seed, device)
    total, part = _share(batch)
    t = draw_timesteps(process, total, generator, device, **timestep_sampling)
    drop = torch.rand(total, generator=generator, device=device) < dropout
    noise = torch.randn(total, *shape, generator=generator, device=device)
    return t[part], noise[part], drop[part]


def draw_timesteps(process: NoiseProcess, count: int, generator: torch.Generator | None, device: torch.device,
                   scheme: str = 'uniform', logit_mean: float = 0.0, logit_std: float = 1.0, mode_scale: float = 1.29,
                   shift: float = 1.0) -> Tensor:
    """Timesteps (count,) for training: integers of a discrete process, real numbers of a flow.

    Args:
        scheme: the density of the noise level in [0, 1]: ``'uniform'``, ``'logit_normal'`` or ``'mode'`` (Esser et al.
            2024, section 3.1).
        logit_mean, logit_std: of ``'logit_normal'``.
        mode_scale: of ``'mode'``.
        shift: above 1 moves the levels s towards the noise, to shift s / (1 + (shift - 1) s) (their Eq. 23).

    Raises:
        ValueError: an unknown scheme, or a shift that is not positive.
    """
    if scheme not in ('uniform', 'logit_normal', 'mode') or not shift > 0:
        raise ValueError(f"timestep_sampling: got scheme='{scheme}' and shift={shift}; the scheme is uniform, "
                         'logit_normal or mode, and the shift is positive.')
    if scheme == 'uniform' and shift == 1:
        return process.draw_uniform(count, generator, device)
    from diffusers.training_utils import compute_density_for_timestep_sampling
    level = compute_density_for_timestep_sampling('none' if scheme == 'uniform' else scheme, count, logit_mean,
                                                  logit_std, mode_scale, device, generator)
    return process.timesteps_at(shift * level / (1 + (shift - 1) * level))


def drop_conditions(drop: Tensor, labels: Tensor | None, caption: Sequence[str] | None,
                    num_classes: int | None) -> tuple[Tensor | None, list[str] | None]:
    """Labels and captions with the null class, the label ``num_classes``, and the empty caption where ``drop`` (N,) is.

    An unconditional model, of ``num_classes`` None, has no labels.
    """
    if caption is not None:
        caption = ['' if dropped else text for text, dropped in zip(caption, drop.tolist(), strict=True)]
    return None if num_classes is None else torch.where(drop, num_classes, labels), caption


def draw_posterior(autoencoder: nn.Module, images: Tensor, seed: int | None) -> Tensor | None:
    """The noise that a first stage draws the latents of this rank's images with; None for one that draws none."""
    if getattr(autoencoder, 'posterior', 'mode') != 'sample':
        return None
    factor = autoencoder.downsampling
    shape = (autoencoder.latent_channels, images.shape[-2] // factor, images.shape[-1] // factor)
    total, part = _share(len(images))
    generator = _generator(None if seed is None else seed + POSTERIOR, images.device)
    return torch.randn(total, *shape, generator=generator, device=images.device)[part]


def _generator(seed: int | None, device: torch.device) -> torch.Generator | None:
    return None if seed is None else torch.Generator(device).manual_seed(seed)


def _share(batch: int) -> tuple[int, slice]:
    """Samples of all ranks, and which of them are this rank's."""
    rank = get_rank()
    return get_world_size() * batch, slice(rank * batch, (rank + 1) * batch)
