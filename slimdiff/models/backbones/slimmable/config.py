"""The config of a UNet at a width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from slimdiff.arguments import plain
from slimdiff.models.backbones.unet import UNet
from slimdiff.models.layers.attention import drops_heads
from slimdiff.models.layers.channels import whole


def slim_config(config: Mapping[str, Any], width: float, widths: Sequence[float]) -> dict[str, Any]:
    """Arguments of the dense :class:`~slimdiff.UNet` that is ``width`` times as wide.

    Channels of stages, middle and timestep embedding shrink. A group of a GroupNorm stays as large, and there are
    fewer; so do heads, or each of them thins where a width would break one
    (:func:`~slimdiff.models.layers.attention.drops_heads`). Images, classes, context and the sinusoids of the timestep
    keep their width, and what a resampler has besides its channels.

    Args:
        config: arguments of a UNet.
        width: in (0, 1].
        widths: all widths of the slimmable network.

    Raises:
        ValueError: something of which ``width`` is not a whole share.
    """
    config = plain({key: value for key, value in config.items() if not key.startswith('_') and key != 'widths'})
    stem = config['stages'][0]['channels']
    config['embedding_channels'] = config.get('embedding_channels') or 4 * stem
    config['time_channels'] = config.get('time_channels') or stem
    if width == 1:
        return config

    def share(what: str, value: int) -> int:
        result = whole(value * width)
        if result is None:
            raise ValueError(f'{what}: {value} has no whole share of {width:g}.')
        return result

    def heads(value: int | None) -> int | None:
        return share('heads', value) if value and drops_heads(value, widths) else value

    for key in ('embedding_channels', 'norm_groups'):
        config[key] = share(key, config[key])
    if config.get('mid_channels'):
        config['mid_channels'] = share('mid_channels', config['mid_channels'])
    config['mid_heads'] = heads(config.get('mid_heads'))
    config['stages'] = [{**stage, 'channels': share('channels', stage['channels']), 'heads': heads(stage.get('heads'))}
                        for stage in config['stages']]
    return config


def check_widths(config: Mapping[str, Any], widths: Sequence[float]) -> tuple[float, ...]:
    """The widths in rising order.

    Raises:
        ValueError: none, one outside (0, 1], the full width not among them, or one that the network has no whole share
            of; the legal ones are listed.
    """
    given = [float(width) for width in widths]
    if not given or any(not 0 < width <= 1 for width in given) or max(given) != 1 or len(set(given)) < len(given):
        raise ValueError(f'widths: got {list(widths)}; they are different shares of the channels in (0, 1], and 1.0 is '
                         'one of them, such as (0.25, 0.5, 0.75, 1.0).')
    for width in given:
        why = refusal(config, width, given)
        if why:
            legal = [k / config['norm_groups'] for k in range(1, config['norm_groups'] + 1)]
            legal = [share for share in legal if not refusal(config, share, [*given, share])]
            raise ValueError(f'widths: this UNet has no width {width:g}: {why} Legal: '
                             f'{", ".join(f"{share:g}" for share in legal)}.')
    return tuple(sorted(given))


def refusal(config: Mapping[str, Any], width: float, widths: Sequence[float]) -> str:
    """Why there is no UNet of that width; empty if there is one. It is built without memory for its weights."""
    try:
        with torch.device('meta'):
            UNet(**slim_config(config, width, widths))
    except ValueError as error:
        return str(error)
    return ''
