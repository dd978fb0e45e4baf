"""CompVis' first stages (``VQModel``, ``AutoencoderKL``) as diffusers' classes of the same names.

The layout is read off the weights, so no config is needed. Only the names differ, and the middle's attention, which is
of 1x1 convolutions there and linear here.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor

from slimdiff.checkpoint import CheckpointError
from slimdiff.models.converters.compvis import CompVisCheckpoint, some
from slimdiff.models.converters.unet import bare_shape

PARTS = ('encoder.', 'decoder.', 'quantize.', 'quant_conv.', 'post_quant_conv.')
ATTENTION = {'norm': 'group_norm', 'q': 'to_q', 'k': 'to_k', 'v': 'to_v', 'proj_out': 'to_out.0'}
#: LDM's models see images of this size
SAMPLE_SIZE = 256


def diffusers_name(name: str, levels: int) -> str:
    """diffusers' name of a CompVis first stage's weight; ``up.0`` is the last of ``levels`` on the way up."""

    def level(match: re.Match) -> str:
        down, number, what, index = match.groups()
        block = f'{down}_blocks.{number if down == "down" else levels - 1 - int(number)}'
        kind = {'block': 'resnets', 'attn': 'attentions'}[what]
        return f'{block}.{kind}.{index}.'

    name = re.sub(r'\b(down|up)\.(\d+)\.(block|attn)\.(\d+)\.', level, name)
    name = re.sub(r'\bdown\.(\d+)\.downsample\.', r'down_blocks.\1.downsamplers.0.', name)
    name = re.sub(r'\bup\.(\d+)\.upsample\.', lambda m: f'up_blocks.{levels - 1 - int(m[1])}.upsamplers.0.', name)
    name = re.sub(r'\bmid\.block_([12])\.', lambda m: f'mid_block.resnets.{int(m[1]) - 1}.', name)
    name = name.replace('mid.attn_1.', 'mid_block.attentions.0.')
    name = re.sub(r'(attentions\.\d+\.)(\w+)\.', lambda m: f'{m[1]}{ATTENTION.get(m[2], m[2])}.', name)
    return name.replace('.nin_shortcut.', '.conv_shortcut.').replace('coder.norm_out.', 'coder.conv_norm_out.')


def read_layout(state: dict[str, Tensor], path: Any) -> tuple[type, dict[str, Any]]:
    """diffusers' class and its arguments, from names and shapes (CompVis', without a prefix).

    Raises:
        CheckpointError: weights that no first stage of LDM has.
    """

    def count(pattern: str) -> int:
        found = [int(m[1]) for m in map(re.compile(pattern).match, state) if m]
        return max(found) + 1 if found else 0

    try:
        levels, layers = count(r'encoder\.down\.(\d+)\.'), count(r'encoder\.down\.0\.block\.(\d+)\.')
        latent = state['decoder.conv_in.weight'].shape[1]
        image = state['encoder.conv_in.weight'].shape[1]
        layout: dict[str, Any] = dict(
            in_channels=image, out_channels=state['decoder.conv_out.weight'].shape[0],
            block_out_channels=tuple(state[f'encoder.down.{i}.block.0.conv1.weight'].shape[0] for i in range(levels)),
            down_block_types=tuple(f'{_attn(state, "encoder.down", i)}DownEncoderBlock2D' for i in range(levels)),
            up_block_types=tuple(f'{_attn(state, "decoder.up", i)}UpDecoderBlock2D' for i in reversed(range(levels))),
            layers_per_block=layers, latent_channels=latent, norm_num_groups=32, sample_size=SAMPLE_SIZE,
            mid_block_add_attention='encoder.mid.attn_1.q.weight' in state)  # not in LDM's vq-f4-noattn
        if 'quantize.embedding.weight' in state:
            codes, width = state['quantize.embedding.weight'].shape
            return VQModel, layout | dict(num_vq_embeddings=codes, vq_embed_dim=width, scaling_factor=1.0)
        width = state['post_quant_conv.weight'].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"{path}: its first stage is not one of LDM's ({error} is missing or odd).") from error
    if width != latent:
        raise CheckpointError(f"{path}: its first stage has latents of {width} channels beside a decoder's {latent}; "
                              "diffusers' AutoencoderKL needs them equal.")
    return AutoencoderKL, layout | dict(scaling_factor=0.18215)


def _attn(state: dict[str, Tensor], way: str, level: int) -> str:
    return 'Attn' if f'{way}.{level}.attn.0.q.weight' in state else ''


def convert_first_stage(checkpoint: CompVisCheckpoint, latent_scale: float | None = None) -> tuple[Any, dict[str, int]]:
    """diffusers' ``VQModel`` or ``AutoencoderKL`` with the weights of the file, in float32.

    Args:
        checkpoint: the file's content.
        latent_scale: ``scaling_factor`` of its config; by default the file's own where it has one, else 1 for VQ
            (LDM does not scale those) and 0.18215 for KL.

    Returns:
        The network, and what of the file was left out: group -> number of tensors.

    Raises:
        CheckpointError: no first stage in the file; a weight that is missing, left over or of another shape.
    """
    prefix = checkpoint.first_stage
    if prefix is None:
        raise CheckpointError(f'{checkpoint.path} holds no first stage (first_stage_model.*).')
    own = {name.removeprefix(prefix): value for name, value in checkpoint.state.items() if name.startswith(prefix)}
    state = {name: value for name, value in own.items() if name.startswith(PARTS)}
    groups = {'training loss': sum(name.startswith('loss.') for name in own)}
    if prefix:
        groups['diffusion model'] = len(checkpoint.state) - len(own)
    unknown = [] if not prefix else [prefix + name for name in own if not name.startswith((*PARTS, 'loss.'))]
    if not prefix:
        # The average of a first stage that was trained with one; diffusers' classes have no place for a second set.
        groups['average'] = sum(name.startswith('model_ema.') for name in own)
        unknown = [name for name in own if not name.startswith((*PARTS, 'loss.', 'model_ema.'))]
    network_class, layout = read_layout(state, checkpoint.path)
    scale = latent_scale if latent_scale is not None else checkpoint.latent_scale
    if scale is not None:
        layout['scaling_factor'] = scale
    with torch.device('meta'):
        network = network_class(**layout)
    target, levels = network.state_dict(), len(layout['block_out_channels'])
    renamed = {diffusers_name(name, levels): name for name in state}
    missing = [name for name in target if name not in renamed]
    unknown += [prefix + theirs for ours, theirs in renamed.items() if ours not in target]
    shapes = [f'{prefix}{theirs} {tuple(state[theirs].shape)} instead of {tuple(target[ours].shape)}'
              for ours, theirs in renamed.items() if ours in target
              and bare_shape(state[theirs]) != bare_shape(target[ours])]
    problems = [f'{label}: {some(names)}' for label, names in (
        (f'weights that {network_class.__name__} has and the file lacks', missing), ('of another shape', shapes),
        ('weights that only the file has', unknown)) if names]
    if problems:
        raise CheckpointError(f"{checkpoint.path}: its first stage is not one of LDM's ({'; '.join(problems)}). "
                              'Nothing was converted.')
    network.load_state_dict({ours: state[theirs].to(torch.float32).reshape(target[ours].shape).clone()
                             for ours, theirs in renamed.items()}, assign=True)
    return network.eval(), {group: number for group, number in groups.items() if number}
