"""UNets of diffusers (``UNet2DModel``, ``UNet2DConditionModel``) as ours, weight for weight.

The layouts are the same but for the up-samplers: diffusers' end a stage of the way up, ours enter the next.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import nn

from slimdiff.models.backbones.adapt import as_tensor, call, named
from slimdiff.models.backbones.protocol import class_rows, example_inputs
from slimdiff.models.backbones.unet import UNet
from slimdiff.models.converters.unet import CROSS_ATTENTION

RESIDUAL = {'norm1': 'norm1', 'conv1': 'conv1', 'embedding': 'time_emb_proj', 'norm2': 'norm2', 'conv2': 'conv2',
            'skip': 'conv_shortcut'}
SELF_ATTENTION = {'norm': 'group_norm', 'out': 'to_out.0'}
TOP = {'stem': 'conv_in', 'norm_out': 'conv_norm_out', 'conv_out': 'conv_out', 'class_embedding': 'class_embedding',
       'time_embedding.linear_1': 'time_embedding.linear_1', 'time_embedding.linear_2': 'time_embedding.linear_2'}


def arguments_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of our UNet with the stages of a UNet of diffusers, by its config.

    What ours lacks (several transformer layers in a block, other kinds of blocks) is left out: whether the weights fit
    is for :func:`from_diffusers` to say.
    """
    channels = list(config['block_out_channels'])
    blocks = config['layers_per_block']
    blocks = [blocks] * len(channels) if isinstance(blocks, int) else list(blocks)
    attends = ['Attn' in kind for kind in config['down_block_types']]
    crosses = ['CrossAttn' in kind for kind in config['down_block_types']]
    context = config.get('cross_attention_dim') if any(crosses) else None
    context = context[0] if isinstance(context, (list, tuple)) else context
    # Of UNet2DConditionModel attention_head_dim is the number of heads, of UNet2DModel the channels of one; None is one
    # head.
    given = config.get('num_attention_heads') or config.get('attention_head_dim')
    given = list(given) if isinstance(given, (list, tuple)) else [given] * len(channels)
    heads = [g or 8 for g in given] if context else [max(1, c // (g or c)) for c, g in zip(channels, given)]
    last = len(channels) - 1
    stages = [dict(channels=c, blocks=b, up_blocks=b + 1, downsample=i < last, heads=heads[i] if attends[i] else None,
                   cross_attention=crosses[i]) for i, (c, b) in enumerate(zip(channels, blocks))]
    middle = config.get('add_attention', True) if context is None else True
    size = config['sample_size']
    if not isinstance(size, int):
        if size[0] != size[1]:
            raise ValueError(f'This UNet is for images of {size[0]} x {size[1]}, and ours are square. Use it as it is: '
                             "unet=dict(type='UNet2DModel', ...).")
        size = size[0]
    return dict(
        sample_size=size, in_channels=config['in_channels'],
        out_channels=config['in_channels'], stages=stages, mid_heads=heads[-1] if middle else None,
        mid_cross_attention=bool(context), context_channels=context, norm_groups=config.get('norm_num_groups') or 32,
        scale_shift_norm=config.get('resnet_time_scale_shift') == 'scale_shift', norm_eps=config.get('norm_eps', 1e-5),
        flip_sin_to_cos=config.get('flip_sin_to_cos', True), freq_shift=float(config.get('freq_shift', 0)))


def from_diffusers(theirs: UNet2DModel | UNet2DConditionModel) -> UNet:
    """diffusers' network as ours. Its last class is taken for the null class.

    Raises:
        ValueError: blocks or arguments that ours has not.
    """
    config, rows = theirs.config, class_rows(theirs)
    # DDPM's own weights pad below and right only.
    down = dict(type='ConvDown', asymmetric=True) if config.get('downsample_padding') == 0 else dict(type='ConvDown')
    network = UNet(**arguments_of(config), num_classes=rows - 1 if rows else None, downsampler=down,
                   upsampler=dict(type='NearestConvUp'))
    state, own, found = theirs.state_dict(), network.state_dict(), {}
    for name, value in own.items():
        part, _, kind = name.rpartition('.')
        crosses = f'{".".join(part.split(".")[:3])}.proj_in.weight' in own
        pieces = [state.pop(f'{place}.{kind}', None) for place in places_of(part, network.num_stages, crosses)]
        if any(piece is None for piece in pieces):
            raise _other(theirs, f'it has no {name}')
        found[name] = torch.cat(pieces)
        if found[name].dim() == 4 and value.dim() == 2:  # a 1x1 convolution
            found[name] = found[name].flatten(1)
        if found[name].shape != value.shape:
            raise _other(theirs, f'{name} has the shape {tuple(found[name].shape)} in place of {tuple(value.shape)}')
    if state:
        raise _other(theirs, f'it also has {next(iter(state))}')
    network.load_state_dict(found)
    network = nn.Module.to(network, theirs.dtype).train(theirs.training)  # diffusers' own warns
    check_same(theirs, network)
    return network


def places_of(part: str, stages: int, crosses: bool) -> list[str]:
    """Where diffusers has a layer of ours: in three places for queries, keys and values that ours has in one.

    Args:
        crosses: the layer is of an attention with a context.
    """
    if part in TOP:
        return [TOP[part]]
    stage, kind, *rest = part.split('.')
    if kind == 'upsampler':
        return [f'up_blocks.{stages - int(stage[2:]) - 1}.upsamplers.0.conv']
    if stage == 'mid':
        block = 'mid_block'
    else:
        block = (f'down_blocks.{int(stage[4:]) - 1}' if stage.startswith('down')
                 else f'up_blocks.{stages - int(stage[2:])}')
    if kind == 'downsampler':
        return [f'{block}.downsamplers.0.conv']
    number, layer = rest[0], '.'.join(rest[1:])
    if kind == 'blocks':
        return [f'{block}.resnets.{number}.{RESIDUAL[layer]}']
    names = ['to_q', 'to_k', 'to_v'] if layer == 'qkv' else [(CROSS_ATTENTION if crosses else SELF_ATTENTION)[layer]]
    return [f'{block}.attentions.{number}.{name}' for name in names]


@torch.no_grad()
def check_same(theirs: nn.Module, ours: nn.Module) -> None:
    """Raise ValueError unless two networks compute the same: names don't tell how the layers are put together."""
    outputs = []
    for network in (theirs, ours):
        if network.dtype != torch.float32:  # half precision rounds by more than is allowed below
            network = copy.deepcopy(network).float()
        inputs = {name: value.to(network.device) for name, value in example_inputs(network, 2, 1, random=True).items()}
        x, t = inputs.pop('sample'), inputs.pop('timestep')
        outputs.append(as_tensor(call(network, x, t, named(network, inputs)), type(network).__name__).cpu())
    expected, found = outputs
    if not torch.allclose(expected, found, rtol=1e-2, atol=1e-2 * expected.abs().max().item()):
        raise _other(theirs, 'the same weights compute something else', type(ours).__name__)


def _other(theirs: nn.Module, why: str, ours: str = 'UNet') -> ValueError:
    return ValueError(f'This {type(theirs).__name__} is not a slimdiff.{ours}: {why}.')
