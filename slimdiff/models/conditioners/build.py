"""A text encoder from its config, fitted to the network that reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from slimdiff.models.backbones.protocol import expected_context
from slimdiff.models.conditioners.text import TextConditioner
from slimdiff.registry import MODELS


def build_conditioner(config: Mapping[str, Any] | None, unet: nn.Module,
                      where: str = 'conditioner') -> TextConditioner | None:
    """Build the text encoder of ``config`` for ``unet``, ours or diffusers'; None where there is none.

    Args:
        where: the config has it, for the message.

    Raises:
        ValueError: its context is of another width than the network's cross-attention.
    """
    if config is None:
        return None
    conditioner, width = MODELS.build(config, kind=TextConditioner), expected_context(unet)
    if conditioner.channels != width:
        raise ValueError(f'{where}: {type(conditioner).__name__} gives {conditioner.channels} channels, the UNet '
                         f'attends to {width or "nothing"}. Take a text encoder of that width, or a UNet with '
                         f'context_channels={conditioner.channels} and cross_attention in its stages.')
    return conditioner
