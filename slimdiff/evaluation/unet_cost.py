"""What the UNet of a model costs, and what it takes to call one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from slimdiff.evaluation.cost import Cost, count_cost
from slimdiff.models.backbones.protocol import expected_context


def unet_inputs(unet: nn.Module, context_length: int = 1,
                batch_size: int = 1) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Zeros for ``batch_size`` samples, by the UNet's config: positional and keyword arguments."""
    config = unet.config
    inputs = (torch.zeros(batch_size, config.in_channels, config.sample_size, config.sample_size),
              torch.zeros(batch_size, dtype=torch.long))
    kwargs: dict[str, Tensor] = {}
    if config.get('num_classes'):
        kwargs['class_labels'] = torch.zeros(batch_size, dtype=torch.long)
    width = expected_context(unet)
    if width:
        kwargs['encoder_hidden_states'] = torch.zeros(batch_size, context_length, width)
    return inputs, kwargs


def context_length_of(model: Any) -> int:
    """Tokens of the context that a model's text encoder gives; 1 without one."""
    conditioner = getattr(model, 'conditioner', None)
    return 1 if conditioner is None else conditioner.max_length


def unet_cost(model: Any, context_length: int = 1) -> Cost:
    """Cost of the ``unet`` of a built algorithm."""
    inputs, kwargs = unet_inputs(model.unet, context_length)
    return count_cost(model.unet, *inputs, **kwargs)


def class_parameters(unet: nn.Module) -> int:
    """Parameters of the class embeddings inside ``unet``; those of LDM are in a model of their own."""
    embedding = getattr(unet, 'class_embedding', None)
    return 0 if embedding is None else sum(p.numel() for p in embedding.parameters())
