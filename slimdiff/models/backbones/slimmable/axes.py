"""Which slice of every weight of a UNet belongs to a width."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from slimdiff.models.backbones.unet import UNet
from slimdiff.models.backbones.unet.stages import BlockSequence, Stage, plan_blocks
from slimdiff.models.layers import ResidualBlock
from slimdiff.models.layers.attention import SelfAttentionBlock, head_channels
from slimdiff.models.layers.channels import Axes, Channels, affine, prefixed


def unet_axes(unet: UNet, widths: Sequence[float]) -> dict[str, Axes]:
    """The channel axes of every parameter of ``unet``, by name.

    Args:
        unet: any; a registered resampler without a ``channel_axes(stream)`` of its own may have weights whose axes
            are as long as its ``channels`` or the same at every width.
        widths: of the slimmable network; they decide whether an attention drops whole heads or thins each.

    Raises:
        ValueError: a resampler whose axes can't be told.
    """
    config = unet.config
    stages = [Stage.parse(f'down{i}', stage) for i, stage in enumerate(config.stages, 1)]
    streams = feature_maps(unet, stages)
    embedding = Channels.of(unet.time_embedding.linear_1.out_features)
    axes = affine('time_embedding.linear_1', embedding, None) | affine('time_embedding.linear_2', embedding, embedding)
    if unet.class_embedding is not None:
        axes['class_embedding.weight'] = (None, None if config.class_token else embedding)
    axes |= affine('stem', streams[0], None)
    plan = plan_blocks(stages)
    for name, blocks in plan.items():
        stage = unet.get_submodule(name)
        for i, block in enumerate(blocks):
            inputs = streams[block.main] + (Channels(()) if block.skip is None else streams[block.skip])
            axes |= _residual(f'{name}.blocks.{i}', stage.blocks[i], inputs, streams[block.out], embedding)
        axes |= _attentions(name, stage, streams[blocks[0].out], widths)
        down, up = getattr(stage, 'downsampler', None), getattr(stage, 'upsampler', None)
        if down is not None:
            axes |= _resampler(f'{name}.downsampler', down, streams[blocks[-1].out], embedding)
        if up is not None:
            axes |= _resampler(f'{name}.upsampler', up, streams[blocks[0].main], embedding)
    axes |= affine('norm_out', streams[0]) | affine('conv_out', None, streams[0])
    missing = sorted(dict(unet.named_parameters()).keys() ^ axes.keys())
    if missing:
        raise ValueError(f'No channel axes are known for {", ".join(missing[:4])}: give the class of that module a '
                         'method channel_axes (slimdiff.models.layers.channels).')
    return axes


def feature_maps(unet: UNet, stages: Sequence[Stage]) -> list[Channels]:
    """The channels of each stage's feature maps, and of the middle's.

    Where an up-sampler takes its input for four bands, every feature map that may come before one is kept in four
    parts. What the first stage computes never does, unless residual sums tie it to the second's.
    """
    sizes = [stage.channels for stage in stages] + [unet.mid.blocks[0].conv2.out_channels]
    parts = max((_input_parts(unet.get_submodule(f'up{i}').upsampler) for i in range(1, len(stages) + 1)), default=1)
    first = parts if sizes[0] == sizes[1] else 1
    return [Channels.of(size, parts if i else first) for i, size in enumerate(sizes)]


def _input_parts(resampler: nn.Module | None) -> int:
    if isinstance(resampler, ResidualBlock):
        resampler = resampler.resample
    return getattr(resampler, 'input_parts', 1)


def _residual(name: str, block: ResidualBlock, inputs: Channels, outputs: Channels,
              embedding: Channels) -> dict[str, Axes]:
    return prefixed(name, block.channel_axes(inputs, outputs, embedding))


def _attentions(name: str, stage: BlockSequence, stream: Channels, widths: Sequence[float]) -> dict[str, Axes]:
    axes: dict[str, Axes] = {}
    for i, block in enumerate(stage.attentions):
        heads = (block if isinstance(block, SelfAttentionBlock) else block.self_attention).heads
        inner = head_channels(stream.size, heads, widths)
        axes |= prefixed(f'{name}.attentions.{i}', block.channel_axes(stream, inner))
    return axes


def _resampler(name: str, module: nn.Module, stream: Channels, embedding: Channels) -> dict[str, Axes]:
    if isinstance(module, ResidualBlock):
        return (_residual(name, module, stream, stream, embedding)
                | _resampler(f'{name}.resample', module.resample, stream, embedding)
                | _resampler(f'{name}.resample_skip', module.resample_skip, stream, embedding))
    if hasattr(module, 'channel_axes'):
        return prefixed(name, module.channel_axes(stream))
    return prefixed(name, {parameter: tuple(stream if size == stream.size else None for size in value.shape)
                           for parameter, value in module.named_parameters()})
