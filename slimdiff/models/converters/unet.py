"""CompVis' ``openaimodel.UNetModel`` into our UNet: where each of our weights is found in its file.

CompVis numbers blocks through: ``input_blocks.0`` is the stem; then every residual block (``.0``) with its attention
(``.1``), and every down-sampler, takes the next number. ``output_blocks`` are the blocks of the way up; the last of a
resolution is followed by its up-sampler (``.1`` or, after an attention, ``.2``). Ours are stages.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from slimdiff.checkpoint import CheckpointError
from slimdiff.models.backbones.unet import UNet
from slimdiff.models.converters.compvis import (
    AVERAGE,
    AVERAGE_COUNTERS,
    CONDITION,
    FIRST_STAGE,
    SCHEDULE,
    UNET,
    CompVisCheckpoint,
    average_name,
    some,
)
from slimdiff.models.layers import CrossAttentionBlock, ResidualBlock, SelfAttentionBlock
from slimdiff.models.resamplers import AvgPoolDown, ConvDown, NearestConvUp, NearestUp

#: parts of our block -> parts of CompVis'
RESIDUAL = {'norm1': 'in_layers.0', 'conv1': 'in_layers.2', 'embedding': 'emb_layers.1', 'norm2': 'out_layers.0',
            'conv2': 'out_layers.3', 'skip': 'skip_connection'}
SELF_ATTENTION = {'norm': 'norm', 'qkv': 'qkv', 'out': 'proj_out'}
ATTENTION = {'q': 'to_q', 'k': 'to_k', 'v': 'to_v', 'out': 'to_out.0'}
CROSS_ATTENTION = {
    'norm': 'norm', 'proj_in': 'proj_in', 'proj_out': 'proj_out',
    **{f'norm{i}': f'transformer_blocks.0.norm{i}' for i in (1, 2, 3)},
    **{f'self_attention.{ours}': f'transformer_blocks.0.attn1.{theirs}' for ours, theirs in ATTENTION.items()},
    **{f'cross_attention.{ours}': f'transformer_blocks.0.attn2.{theirs}' for ours, theirs in ATTENTION.items()},
    'feed_forward.up': 'transformer_blocks.0.ff.net.0.proj', 'feed_forward.down': 'transformer_blocks.0.ff.net.2'}
RESAMPLER = {ConvDown: {'conv': 'op'}, NearestConvUp: {'conv': 'conv'}, AvgPoolDown: {}, NearestUp: {}}


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a weight of ours comes from.

    Args:
        name: of the trained weight in a CompVis file.
        heads: of a fused q, k, v whose rows CompVis orders head by head; None for any other weight.
    """
    name: str
    heads: int | None = None


class _Layout:
    """Collects module -> Source of a UNet; raises where CompVis has nothing of the kind."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}

    def pair(self, ours: str, theirs: str, parts: dict[str, str] | None = None, heads: int | None = None) -> None:
        for part, name in (parts or {'': ''}).items():
            key = f'{ours}.{part}'.rstrip('.')
            self.sources[key] = Source(f'{UNET}{theirs}.{name}'.rstrip('.'), heads if part == 'qkv' else None)

    def block(self, module: nn.Module, ours: str, theirs: str) -> None:
        if isinstance(module, ResidualBlock):
            for resampler in (module.resample, module.resample_skip):
                if not isinstance(resampler, (nn.Identity, AvgPoolDown, NearestUp)):
                    raise _unlike(f'a {type(resampler).__name__} inside residual blocks')
            self.pair(ours, theirs, RESIDUAL)
        elif isinstance(module, SelfAttentionBlock):
            self.pair(ours, theirs, SELF_ATTENTION, module.heads)
        elif isinstance(module, CrossAttentionBlock):
            self.pair(ours, theirs, CROSS_ATTENTION)
        elif type(module) in RESAMPLER:
            if getattr(module, 'asymmetric', False):
                raise _unlike('ConvDown(asymmetric=True)')
            if RESAMPLER[type(module)]:
                self.pair(ours, theirs, RESAMPLER[type(module)])
        else:
            raise _unlike(f'a {type(module).__name__}')


def _unlike(what: str) -> ValueError:
    return ValueError(f'This UNet has {what}, which CompVis\' UNetModel has not: no checkpoint of it can be converted. '
                      'Take a teacher\'s config, such as configs/ldm/ffhq.py.')


def unet_sources(unet: UNet) -> dict[str, Source]:
    """For every weight of ``unet`` (which may be on the meta device): where a CompVis file has it.

    Raises:
        ValueError: a UNet that isn't CompVis' in layout or in what it computes.
    """
    config, layout = unet.config, _Layout()
    for key, value in (('flip_sin_to_cos', True), ('freq_shift', 0), ('norm_eps', 1e-5)):
        if config[key] != value:
            raise _unlike(f'{key}={config[key]}')
    for ours, theirs in (('time_embedding.linear_1', 'time_embed.0'), ('time_embedding.linear_2', 'time_embed.2'),
                         ('stem', 'input_blocks.0.0'), ('norm_out', 'out.0'), ('conv_out', 'out.2')):
        layout.pair(ours, theirs)
    if unet.class_embedding is not None:
        if config.class_token:
            layout.sources['class_embedding'] = Source(f'{CONDITION}embedding')
        else:
            layout.pair('class_embedding', 'label_emb')

    number = 1
    for i in range(1, unet.num_stages + 1):
        stage = unet.get_submodule(f'down{i}')
        if (stage.downsampler is None) != (i == unet.num_stages):
            raise _unlike(f'{"no" if stage.downsampler is None else "a"} down-sampler after down{i}')
        if stage.num_skips != len(stage.blocks) + 1:
            raise _unlike(f'{stage.num_skips} skips in down{i} (up_blocks must be blocks + 1)')
        for j, block in enumerate(stage.blocks):
            layout.block(block, f'down{i}.blocks.{j}', f'input_blocks.{number}.0')
            if len(stage.attentions):
                layout.block(stage.attentions[j], f'down{i}.attentions.{j}', f'input_blocks.{number}.1')
            number += 1
        if stage.downsampler is not None:
            layout.block(stage.downsampler, f'down{i}.downsampler', f'input_blocks.{number}.0')
            number += 1

    if not len(unet.mid.attentions):
        raise _unlike('no attention in the middle (mid_heads)')
    for k, name in enumerate(('blocks.0', 'attentions.0', 'blocks.1')):
        layout.block(unet.mid.get_submodule(name), f'mid.{name}', f'middle_block.{k}')

    number, layers = 0, 0
    for i in range(unet.num_stages, 0, -1):
        stage = unet.get_submodule(f'up{i}')
        if stage.upsampler is not None:  # CompVis has it at the end of the resolution below
            layout.block(stage.upsampler, f'up{i}.upsampler', f'output_blocks.{number - 1}.{layers}')
        for j, block in enumerate(stage.blocks):
            layout.block(block, f'up{i}.blocks.{j}', f'output_blocks.{number}.0')
            if len(stage.attentions):
                layout.block(stage.attentions[j], f'up{i}.attentions.{j}', f'output_blocks.{number}.1')
            number += 1
        layers = 2 if len(stage.attentions) else 1

    sources = {}
    for name in unet.state_dict():
        module, _, parameter = name.rpartition('.')
        if module not in layout.sources:
            raise _unlike(f'the weight {name}')
        source = layout.sources[module]
        sources[name] = Source(f'{source.name}.{parameter}', source.heads)
    return sources


def bare_shape(tensor: Tensor) -> tuple[int, ...]:
    """The shape without ones at its end: a 1x1 convolution and a linear layer have the same weights."""
    shape = tuple(tensor.shape)
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def split_heads(weight: Tensor, heads: int) -> Tensor:
    """Rows of a fused q, k, v from CompVis' order (head, q or k or v, channel) to ours (q or k or v, head, channel)."""
    return weight.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)


def convert_unet(checkpoint: CompVisCheckpoint, unet: UNet, weights: str) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The state dict of ``unet`` from a CompVis file, in float32.

    Args:
        checkpoint: the file's content.
        unet: says names and shapes; it may be on the meta device.
        weights: 'ema' or 'model', see :meth:`~slimdiff.models.converters.compvis.CompVisCheckpoint.choose_weights`.

    Returns:
        The state dict, and what of the file was left out: group -> number of tensors.

    Raises:
        CheckpointError: a weight of the UNet that the file lacks or has in another shape, or one in the file that is
            neither used nor of a known group.
    """
    state, target = checkpoint.state, unet.state_dict()
    converted, used, missing, shapes = {}, {}, [], []
    for name, source in unet_sources(unet).items():
        key = average_name(source.name) if weights == 'ema' and source.name.startswith('model.') else source.name
        used[key] = source.name
        if key not in state:
            missing.append(key)
        elif bare_shape(state[key]) != bare_shape(target[name]):
            shapes.append(f'{key} {tuple(state[key].shape)} instead of {tuple(target[name].shape)}')
        else:
            value = state[key].to(torch.float32).reshape(target[name].shape)
            converted[name] = value if source.heads is None else split_heads(value, source.heads)
    groups, unknown = group_leftovers(state, used, weights)
    problems = [f'{label}: {some(names)}' for label, names in (
        ('weights that the UNet has and the file lacks', missing), ('of another shape', shapes),
        ('weights that only the file has', unknown)) if names]
    if problems:
        raise CheckpointError(f'{checkpoint.path} is of another architecture than the config\'s UNet '
                              f'({"; ".join(problems)}). Nothing was converted.')
    return converted, groups


def group_leftovers(state: dict[str, Tensor], used: dict[str, str], weights: str) -> tuple[dict[str, int], list[str]]:
    """Count what is left out on purpose, by group, and list what has no place.

    Args:
        used: name in the file -> name of the trained weight that it is (an average of).
    """
    trained = set(used.values())
    averages = {average_name(name) for name in trained if name.startswith('model.')}
    groups: dict[str, int] = {}
    unknown: list[str] = []
    for name in state:
        if name in used:
            continue
        if name in SCHEDULE:
            group = 'noise schedule'
        elif name in AVERAGE_COUNTERS:
            group = 'counters of the average'
        elif name.startswith(FIRST_STAGE):
            group = 'first stage'
        elif name.startswith(CONDITION):
            group = 'conditioner (text or class)'
        elif name.startswith('loss.'):
            group = 'training loss'
        elif weights == 'ema' and name in trained:
            group = 'trained weights (the averaged ones were taken)'
        elif weights == 'model' and name.startswith(AVERAGE) and name in averages:
            group = 'averaged weights (the trained ones were taken)'
        else:
            unknown.append(name)
            continue
        groups[group] = groups.get(group, 0) + 1
    return groups, unknown
