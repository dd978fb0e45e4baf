"""What a UNet, ours or diffusers', must be given to attend to."""

from __future__ import annotations

from torch import nn


def expected_context(unet: nn.Module) -> int | None:
    """Width of the ``encoder_hidden_states`` that ``unet`` needs; None if it takes none (or has a class token)."""
    config = unet.config
    if getattr(config, 'class_token', False):
        return None
    width = getattr(config, 'context_channels', None) or getattr(config, 'cross_attention_dim', None)
    return width if isinstance(width, int) or width is None else width[0]
