"""A small network that starts as a slice of a large one."""

from __future__ import annotations

import torch
from torch import nn

from slimdiff.models.backbones.dit import DiT
from slimdiff.models.backbones.protocol import bare, name_of
from slimdiff.models.backbones.slimmable.dit import SlimmableDiT
from slimdiff.models.backbones.slimmable.unet import SlimmableUNet
from slimdiff.models.backbones.unet import UNet

#: a dense network -> the one that has slices of it
SLIMMABLE = {UNet: SlimmableUNet, DiT: SlimmableDiT}


@torch.no_grad()
def start_from_slice(student: nn.Module, wide: nn.Module, width: float) -> list[str]:
    """Copy into ``student`` the slice of ``width`` of a UNet or DiT, wherever names and shapes agree.

    The slice has the most important channels (:mod:`slimdiff.models.backbones.slimmable.importance`). Resamplers of
    another kind keep the weights that they have.

    Args:
        student: with the wide network's stages or blocks, ``width`` times their channels, norm groups and heads.
        wide: is not changed.

    Returns:
        The names of the weights that were not copied.

    Raises:
        ValueError: a wide network of another class, or without a slice of this width; a student that shares less than
            half of its weights with the slice.
    """
    network = bare(wide)
    if type(network) not in SLIMMABLE:
        raise ValueError(f'Only a {" or ".join(f"slimdiff.{cls.__name__}" for cls in SLIMMABLE)} has slices to start '
                         f'from; this is a {name_of(wide)}.')
    config = {key: value for key, value in network.config.items() if not key.startswith('_')}
    supernet = SLIMMABLE[type(network)](widths=(width, 1.0), **config)
    supernet.load_state_dict({name: value.float() for name, value in network.state_dict().items()})
    supernet.order_by_importance()
    slim = supernet.extract(width)
    given, own = slim.state_dict(), bare(student).state_dict()
    shared = [name for name in own if name in given and own[name].shape == given[name].shape]
    count = sum(own[name].numel() for name in shared)
    total = sum(value.numel() for value in own.values())
    if 2 * count < total:
        raise ValueError(f'The student shares {count:,} of its {total:,} weights with the slice of width {width:g} of '
                         f'the wide network, less than half. Give it {describe_size(slim)}.')
    for name in shared:
        own[name].copy_(given[name])
    return [name for name in own if name not in shared]


def describe_size(slim: nn.Module) -> str:
    """What a student must have to take a slice."""
    if isinstance(slim, DiT):
        return (f'{slim.config.num_attention_heads} heads of {slim.config.attention_head_dim} channels and '
                f'layers={list(slim.config.layers)}')
    narrow = [stage['channels'] for stage in slim.config.stages]
    return f'stages of {", ".join(map(str, narrow))} channels with the same blocks and heads'
