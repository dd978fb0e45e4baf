"""A narrow network that starts from the most important channels of a trained wide one."""

from __future__ import annotations

import torch
from torch import nn

from slimdiff.models.backbones.protocol import bare, name_of
from slimdiff.models.backbones.slimmable.importance import order_channels
from slimdiff.models.backbones.slimmable.unet import SlimmableUNet
from slimdiff.models.backbones.unet import UNet


@torch.no_grad()
def start_from_slice(student: nn.Module, wide: nn.Module, width: float) -> list[str]:
    """Copy into ``student`` the slice of ``width`` of a :class:`~slimdiff.UNet`, wherever names and shapes agree.

    The slice has the most important channels (:mod:`slimdiff.models.backbones.slimmable.importance`). Resamplers of
    another kind keep the weights that they have.

    Args:
        student: with the wide network's stages, ``width`` times their channels and norm groups.
        wide: is not changed.

    Returns:
        The names of the weights that were not copied.

    Raises:
        ValueError: a wide network that is not a UNet of slimdiff or has no slice of this width; a student that shares
            less than half of its weights with the slice.
    """
    network = bare(wide)
    if type(network) is not UNet:
        raise ValueError(f'Only a slimdiff.UNet has slices to start from; this is a {name_of(wide)}.')
    config = {key: value for key, value in network.config.items() if not key.startswith('_')}
    supernet = SlimmableUNet(widths=(width, 1.0), **config)
    supernet.load_state_dict({name: value.float() for name, value in network.state_dict().items()})
    order_channels(supernet, (width, 1.0))
    given, own = supernet.extract(width).state_dict(), bare(student).state_dict()
    shared = [name for name in own if name in given and own[name].shape == given[name].shape]
    count = sum(own[name].numel() for name in shared)
    total = sum(value.numel() for value in own.values())
    if 2 * count < total:
        narrow = [stage['channels'] for stage in supernet.extract(width).config.stages]
        raise ValueError(f'The student shares {count:,} of its {total:,} weights with the slice of width {width:g} of '
                         f'the wide network, less than half. Give it stages of {", ".join(map(str, narrow))} channels '
                         'with the same blocks and heads.')
    for name in shared:
        own[name].copy_(given[name])
    return [name for name in own if name not in shared]
