"""What the UNet of a model costs, and what it takes to call one."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from slimdiff.evaluation.cost import Cost, count_cost
from slimdiff.models.backbones.adapt import call_arguments, named
from slimdiff.models.backbones.protocol import bare, example_inputs


def unet_inputs(unet: nn.Module, context_length: int = 1,
                batch_size: int = 1) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Zeros for ``batch_size`` samples, by the UNet's config: positional and keyword arguments."""
    kwargs = example_inputs(unet, batch_size, context_length)
    return (kwargs.pop('sample'), kwargs.pop('timestep')), kwargs


def fitting_inputs(network: nn.Module, context_length: int = 1,
                   batch_size: int = 1) -> tuple[list[Tensor], dict[str, Tensor]]:
    """As :func:`unet_inputs`, where the weights of ``network`` are and in their precision."""
    inputs, kwargs = unet_inputs(network, context_length, batch_size)
    weight = next(bare(network).parameters())

    def fitted(value: Tensor) -> Tensor:
        return value.to(weight) if value.is_floating_point() else value.to(weight.device)

    return [fitted(value) for value in inputs], {name: fitted(value) for name, value in kwargs.items()}


def context_length_of(model: Any) -> int:
    """Tokens of the context that a model's text encoder gives; 1 without one."""
    conditioner = getattr(model, 'conditioner', None)
    return 1 if conditioner is None else conditioner.max_length


def unet_cost(model: Any, context_length: int = 1) -> Cost:
    """Cost of the ``unet`` of a built algorithm."""
    return network_cost(model.unet, context_length)


def network_cost(network: nn.Module, context_length: int = 1) -> Cost:
    """Cost of any backbone; its modules have the names that they have without slimdiff's wrappers."""
    inputs, kwargs = fitting_inputs(network, context_length)
    inner = bare(network)
    if inner is not network:
        inputs, kwargs = call_arguments(inner, *inputs, named(inner, kwargs))
    return count_cost(inner, *inputs, **kwargs)


def class_parameters(unet: nn.Module) -> int:
    """Parameters of the class embeddings inside ``unet``; those of LDM are in a model of their own."""
    embedding = getattr(bare(unet), 'class_embedding', None)
    return 0 if embedding is None else sum(p.numel() for p in embedding.parameters())
