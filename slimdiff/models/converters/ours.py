"""Networks of diffusers as ours, where their weights fit: what can be made narrower channel by channel."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from torch import nn

from slimdiff.checkpoint import CheckpointError
from slimdiff.models.backbones.protocol import bare
from slimdiff.models.converters import dit, unet2d

CONVERTERS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    UNet2DModel: unet2d.from_diffusers, UNet2DConditionModel: unet2d.from_diffusers,
    DiTTransformer2DModel: functools.partial(dit.from_diffusers, mean_only=True)}


def as_ours(network: nn.Module) -> nn.Module:
    """The UNet or DiT of slimdiff that computes what ``network`` does inside its wrappers, without a learned variance;
    the network in there itself if there is none."""
    inner = bare(network)
    convert = CONVERTERS.get(type(inner), lambda same: same)
    try:
        return convert(inner)
    except (ValueError, CheckpointError):
        return inner
