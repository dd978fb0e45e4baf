"""Transformers of diffusers that want more than (x_t, t, conditions), or in another form: how each is called.

Some read two conditions of a text: tokens and one *pooled* vector. The pooled vector travels as the first row of the
context, in its first ``pooled_projection_dim`` channels, so that everything that handles a context handles both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

#: of distilled guidance, where a network has an input for it: the default of diffusers' FluxPipeline
GUIDANCE = 3.5
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Family:
    """How networks of one class are called.

    Args:
        inputs: ``inputs(network, sample, timestep, conditions)``, with (N,) timesteps of 0..1000 and conditions by the
            network's names, to the arguments of its ``forward``.
        output: ``output(prediction, sample)`` to what slimdiff means by it, (N, C, H, W).
        channels_per_map: channels of its input for each channel of a map.
    """
    inputs: Callable[[nn.Module, Tensor, Tensor, Mapping[str, Tensor]], Arguments]
    output: Callable[[Tensor, Tensor], Tensor] = lambda prediction, sample: prediction
    channels_per_map: int = 1


def split_context(network: nn.Module, conditions: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Pooled vector (N, P) and tokens (N, S, D) of a context (N, 1 + S, D).

    Raises:
        ValueError: no context, or one without tokens.
    """
    context, width = conditions.get('encoder_hidden_states'), network.config.pooled_projection_dim
    if context is None or context.shape[1] < 2 or context.shape[2] < width:
        raise ValueError(f'{type(network).__name__} needs a context (N, 1 + S, D) whose first row holds the pooled '
                         f'vector of the text in its first {width} channels, got '
                         f'{"none" if context is None else tuple(context.shape)}.')
    return context[:, 0, :width], context[:, 1:]


def _sd3(network: nn.Module, sample: Tensor, timestep: Tensor, conditions: Mapping[str, Tensor]) -> Arguments:
    pooled, tokens = split_context(network, conditions)
    return (sample, tokens, pooled, timestep), {}


def _flux(network: nn.Module, sample: Tensor, timestep: Tensor, conditions: Mapping[str, Tensor]) -> Arguments:
    """Patches of 2x2 as tokens, with their places; the timestep in [0, 1]."""
    pooled, tokens = split_context(network, conditions)
    height, width = (side // 2 for side in sample.shape[2:])
    places = torch.zeros(height, width, 3, device=sample.device, dtype=sample.dtype)
    places[..., 1] = torch.arange(height, device=sample.device)[:, None]
    places[..., 2] = torch.arange(width, device=sample.device)
    guidance = sample.new_full((len(sample), ), GUIDANCE) if network.config.guidance_embeds else None
    return (pack(sample), tokens, pooled, timestep.to(sample.dtype) / 1000), dict(
        img_ids=places.flatten(0, 1), txt_ids=places.new_zeros(tokens.shape[1], 3), guidance=guidance)


def pack(maps: Tensor) -> Tensor:
    """Maps (N, C, H, W) as tokens (N, HW / 4, 4C) of 2x2 patches, channels first, as FLUX has them.

    Raises:
        ValueError: an odd side.
    """
    if maps.shape[2] % 2 or maps.shape[3] % 2:
        raise ValueError(f'FLUX takes maps of even sides, for its patches of 2x2; got {tuple(maps.shape[2:])}.')
    n, c, h, w = maps.shape
    return maps.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, h * w // 4, 4 * c)


def unpack(tokens: Tensor, sample: Tensor) -> Tensor:
    """The reverse of :func:`pack`, to maps of the size of ``sample``."""
    n, _, h, w = sample.shape
    return tokens.view(n, h // 2, w // 2, -1, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(n, -1, h, w)


def _lumina2(network: nn.Module, sample: Tensor, timestep: Tensor, conditions: Mapping[str, Tensor]) -> Arguments:
    """Its time runs from noise, 0, to data, 1, and so does its velocity; all tokens of the context count."""
    context = conditions.get('encoder_hidden_states')
    if context is None:
        raise ValueError(f'{type(network).__name__} needs a context (N, S, D): give the model a conditioner.')
    mask = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
    return (sample, 1 - timestep.to(sample.dtype) / 1000, context, mask), {}


#: by the name of the class
FAMILIES = {
    'SD3Transformer2DModel': Family(_sd3),
    'FluxTransformer2DModel': Family(_flux, unpack, channels_per_map=4),
    'Lumina2Transformer2DModel': Family(_lumina2, lambda velocity, sample: -velocity),
}


def family_of(network: nn.Module | type[nn.Module]) -> Family | None:
    """How ``network`` is called, if not as all others."""
    cls = network if isinstance(network, type) else type(network)
    return FAMILIES.get(cls.__name__)
