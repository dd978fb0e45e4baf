"""A small network that starts as the most important channels of a large one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from slimdiff.models.backbones.dit import DiT
from slimdiff.models.backbones.protocol import bare, name_of
from slimdiff.models.backbones.slimmable.dit import SlimmableDiT
from slimdiff.models.backbones.slimmable.unet import SlimmableUNet
from slimdiff.models.backbones.unet import UNet
from slimdiff.models.layers.channels import Axes

#: a dense network -> the one that knows its channel axes and orders them
SLIMMABLE = {UNet: SlimmableUNet, DiT: SlimmableDiT}


def has_channels_for(student: type[nn.Module] | None, wide: nn.Module) -> bool:
    """Whether a network of class ``student`` can start from the channels of ``wide``."""
    kind = type(bare(wide))
    return kind in SLIMMABLE and student in (kind, SLIMMABLE[kind])


@torch.no_grad()
def start_from_channels(student: nn.Module, wide: nn.Module) -> list[str]:
    """Copy into ``student`` the most important channels of a UNet or DiT, wherever it has them.

    The wide network's channels are ordered by importance (:mod:`slimdiff.models.backbones.slimmable.importance`); of
    each part of an axis the student gets as many as it has: ``[main | skip]`` from each of the two. Its stages may be
    narrowed by different shares. What the wide network lacks (resamplers of another kind), or has narrower, keeps the
    weights that it has.

    Args:
        student: of the wide network's class, with the same stages or blocks.
        wide: is not changed.

    Returns:
        The names of the weights that were not copied.

    Raises:
        ValueError: a wide network of another class; a student that shares less than half of its weights with it.
    """
    network, own = bare(wide), bare(student)
    if not has_channels_for(type(own), wide):
        raise ValueError(f'Only a {" or ".join(f"slimdiff.{cls.__name__}" for cls in SLIMMABLE)} has channels that a '
                         f'smaller one can start from; this is a {name_of(wide)} and a {name_of(student)}.')
    kind = SLIMMABLE[type(network)]
    ordered = kind(widths=(1.0, ), **arguments_of(network))
    ordered.load_state_dict({name: value.float() for name, value in network.state_dict().items()})
    ordered.order_by_importance()
    # The wide network's resamplers decide how feature maps divide into parts; the student's have their own.
    resamplers = {key: network.config[key] for key in ('downsampler', 'upsampler')}
    with torch.device('meta'):
        axes = kind(widths=(1.0, ), **arguments_of(own) | resamplers).axes
    given, target = ordered.state_dict(), own.state_dict()
    fresh = [name for name, value in target.items()
             if name not in axes or name not in ordered.axes
             or not copy_channels(value, axes[name], given[name], ordered.axes[name])]
    count = sum(value.numel() for name, value in target.items() if name not in fresh)
    total = sum(value.numel() for value in target.values())
    if 2 * count < total:
        raise ValueError(f'The student shares {count:,} of its {total:,} weights with the {name_of(wide)} that it '
                         'should start from, less than half. Give it the same stages and blocks, not wider, and the '
                         f'same time_channels, or leave the start out. Not shared: {", ".join(fresh[:4])}, ...')
    return fresh


def arguments_of(network: nn.Module) -> dict[str, Any]:
    """Of its class, without what makes it slimmable."""
    config: Mapping[str, Any] = network.config
    return {key: value for key, value in config.items()
            if not key.startswith('_') and key not in ('widths', 'depths', 'block_order')}


def copy_channels(target: Tensor, axes: Axes, source: Tensor, wide: Axes) -> bool:
    """Copy the first channels of each part of ``source`` into ``target``; returns whether it has them.

    Args:
        axes: of ``target``; those after the last given are whole.
        wide: of ``source``.
    """
    if target.dim() != source.dim():
        return False
    for dim, (size, given, axis, theirs) in enumerate(
            itertools.zip_longest(target.shape, source.shape, axes, wide)):
        parts, wider = (size, ) if axis is None else axis.parts, (given, ) if theirs is None else theirs.parts
        if (axis is None and size != given) or len(parts) != len(wider) or sum(parts) != size:
            return False
        if any(mine > its for mine, its in zip(parts, wider)):
            return False
        starts = itertools.accumulate(wider, initial=0)
        kept = torch.cat([torch.arange(start, start + mine) for start, mine in zip(starts, parts)])
        source = source.index_select(dim, kept.to(source.device))
    target.copy_(source)
    return True
