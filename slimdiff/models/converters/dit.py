"""Diffusion transformers of other implementations as ours, and back.

Three implementations have the same blocks under other names: DiT's and SiT's own code
(``blocks.0.attn.qkv.weight``), diffusers' ``DiTTransformer2DModel`` (``transformer_blocks.0.attn1.to_q.weight``) and
:class:`slimdiff.DiT`. What they compute otherwise:

* diffusers' has the embedding of timestep and class in every block; in the published models these are copies.
* The networks of DiT's code have a second half of output channels, the learned variance, which samplers of diffusers
  do not use: it can be left out.
* SiT's time runs from noise (0) to data (1), and its network predicts data - noise; here a flow's timestep runs from
  data (0) to noise (1,000), and the velocity is noise - data. Both are linear in weights: the last layer changes its
  sign, and the shifted phases of the sinusoids go into the layer that reads them (:func:`reversed_time`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from slimdiff.checkpoint import CheckpointError
from slimdiff.models.backbones.dit import DiT
from slimdiff.models.backbones.dit.dit import TIME_CHANNELS
from slimdiff.models.converters.unet2d import check_same

#: parts outside the blocks: ours -> (DiT's code, diffusers')
TOP = {'patch_embedding': ('x_embedder.proj', 'pos_embed.proj'),
       'modulation_out': ('final_layer.adaLN_modulation.1', 'proj_out_1'),
       'proj_out': ('final_layer.linear', 'proj_out_2')}
#: the embeddings, which diffusers has in every block
EMBEDDINGS = {'time_embedding.linear_1': ('t_embedder.mlp.0', 'timestep_embedder.linear_1'),
              'time_embedding.linear_2': ('t_embedder.mlp.2', 'timestep_embedder.linear_2'),
              'class_embedding': ('y_embedder.embedding_table', 'class_embedder.embedding_table')}
BLOCK = {'modulation': ('adaLN_modulation.1', 'norm1.linear'), 'out': ('attn.proj', 'attn1.to_out.0'),
         'up': ('mlp.fc1', 'ff.net.0.proj'), 'down': ('mlp.fc2', 'ff.net.2')}
QKV = ('to_q', 'to_k', 'to_v')


def is_dit(state: Mapping[str, Any]) -> bool:
    """Whether a file's weights have the names of DiT's and SiT's code."""
    return {'x_embedder.proj.weight', 't_embedder.mlp.0.weight', 'blocks.0.adaLN_modulation.1.weight'} <= state.keys()


def weights_of(content: Any) -> dict[str, dict[str, Tensor]]:
    """The weights in a file of DiT or SiT: of a training checkpoint ``ema`` (averaged) and ``model``, else ``model``.

    Empty for any other file.
    """
    if not isinstance(content, dict):
        return {}
    sets = {'ema': content.get('ema'), 'model': content if is_dit(content) else content.get('model')}
    return {key: {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
            for key, state in sets.items() if isinstance(state, dict) and is_dit(state)}


def from_original(state: Mapping[str, Tensor], flow: bool, heads: int | None = None, mean_only: bool = True) -> DiT:
    """A checkpoint of DiT's or SiT's code as ours.

    Args:
        state: its weights by name.
        flow: they are SiT's. The files look alike.
        heads: of the attention; by default what the published sizes have: 16 of 72 channels for 1,152, else 64 each.
        mean_only: leave out the learned variance.

    Raises:
        CheckpointError: names or shapes of another network.
    """
    if lacking := [name for name in ('y_embedder.embedding_table.weight', 'pos_embed') if name not in state]:
        raise CheckpointError(f'This is not a network of DiT or SiT: it lacks {" and ".join(lacking)}.')
    channels, in_channels, patch, _ = state['x_embedder.proj.weight'].shape
    depth = len({name.split('.')[1] for name in state if name.startswith('blocks.')})
    classes = state['y_embedder.embedding_table.weight'].shape[0] - 1
    heads = heads or (16 if channels == 1152 else max(channels // 64, 1))
    side = round(state['pos_embed'].shape[1]**0.5)
    network = DiT(sample_size=side * patch, in_channels=in_channels,
                  out_channels=state['final_layer.linear.weight'].shape[0] // patch**2, patch_size=patch,
                  num_attention_heads=heads, attention_head_dim=channels // heads, layers=(depth, ),
                  mlp_ratio=state['blocks.0.mlp.fc1.weight'].shape[0] / channels, num_classes=classes,
                  time_scale=0.001 if flow else 1.0)
    names = {f'{ours}.{kind}': f'{theirs[0]}.{kind}' for ours, theirs in (TOP | EMBEDDINGS).items()
             for kind in ('weight', 'bias')}
    for i in range(depth):
        names |= {f'blocks.{i}.{ours}.{kind}': f'blocks.{i}.{theirs}.{kind}' for kind in ('weight', 'bias')
                  for ours, theirs in [('qkv', 'attn.qkv'), *((ours, theirs[0]) for ours, theirs in BLOCK.items())]}
    _load(network, {ours: state[theirs] for ours, theirs in names.items() if theirs in state}, 'DiT or SiT')
    others = [name for name in state if name not in {*names.values(), 'pos_embed'}
              and not name.startswith('projectors.')]  # of REPA, for its loss alone
    if others:
        raise CheckpointError(f'This is not a network of DiT or SiT: it has {len(others)} other weights, such as '
                              f'{", ".join(others[:3])}, and computes something else.')
    if flow:
        reversed_time(network)
    return without_variance(network) if mean_only and network.config.out_channels == 2 * in_channels else network


def from_diffusers(theirs: DiTTransformer2DModel, mean_only: bool = False) -> DiT:
    """diffusers' network as ours.

    Args:
        mean_only: leave out the learned variance.

    Raises:
        CheckpointError: blocks whose embeddings differ, or that have other weights; no published model does.
        ValueError: the same weights compute something else.
    """
    state, config = theirs.state_dict(), theirs.config
    network = DiT(sample_size=config.sample_size, in_channels=config.in_channels,
                  out_channels=config.out_channels or config.in_channels, patch_size=config.patch_size,
                  num_attention_heads=config.num_attention_heads, attention_head_dim=config.attention_head_dim,
                  layers=(config.num_layers, ), num_classes=config.num_embeds_ada_norm, norm_eps=config.norm_eps,
                  freq_shift=1.0)
    found: dict[str, Tensor] = {}
    for name in network.state_dict():
        part, _, kind = name.rpartition('.')
        if part in TOP:
            places = [TOP[part][1]]
        elif part in EMBEDDINGS:
            places = [f'transformer_blocks.{i}.norm1.emb.{EMBEDDINGS[part][1]}' for i in range(config.num_layers)]
        else:
            _, i, own = part.split('.', 2)
            places = [f'transformer_blocks.{i}.{place}'
                      for place in ([f'attn1.{each}' for each in QKV] if own == 'qkv' else [BLOCK[own][1]])]
        pieces = [state.pop(f'{place}.{kind}') for place in places if f'{place}.{kind}' in state]
        if part in EMBEDDINGS:
            if any(not torch.equal(piece, pieces[0]) for piece in pieces):
                raise CheckpointError(f'The blocks of this DiTTransformer2DModel embed timestep and class each in its '
                                      f'own way ({EMBEDDINGS[part][1]}): slimdiff.DiT has one embedding, as DiT. Use '
                                      "it as it is: unet=dict(type='DiTTransformer2DModel', ...).")
            pieces = pieces[:1]
        if pieces:
            found[name] = torch.cat(pieces)
    if state:
        raise CheckpointError(f'This DiTTransformer2DModel is not a slimdiff.DiT: it also has {next(iter(state))}.')
    _load(network, found, 'DiTTransformer2DModel')
    network = nn.Module.to(network, theirs.dtype).train(theirs.training)
    check_same(theirs, network)
    return without_variance(network) if mean_only and network.config.out_channels == 2 * config.in_channels else network


def to_diffusers(network: DiT) -> DiTTransformer2DModel:
    """Ours as diffusers' network, for ``DiTPipeline``.

    Raises:
        ValueError: what diffusers' has not: several groups of blocks, a context, no classes, another timestep, hidden
            channels or shift of the sinusoids.
    """
    config = network.config
    fits = {'layers': len(config.layers) == 1, 'context_channels': not config.context_channels,
            'num_classes': config.num_classes, 'time_scale': config.time_scale == 1,
            'freq_shift': config.freq_shift == 1, 'mlp_ratio': config.mlp_ratio == 4}
    lacks = [key for key, fit in fits.items() if not fit]
    if lacks:
        raise ValueError('diffusers.DiTTransformer2DModel cannot compute this DiT: it has no '
                         + ', '.join(f'{key}={config[key]}' for key in lacks)
                         + '. It has one group of blocks, classes, mlp_ratio=4, freq_shift=1 and time_scale=1.')
    theirs = DiTTransformer2DModel(
        num_attention_heads=config.num_attention_heads, attention_head_dim=config.attention_head_dim,
        in_channels=config.in_channels, out_channels=config.out_channels, num_layers=len(network.blocks),
        sample_size=config.sample_size, patch_size=config.patch_size, num_embeds_ada_norm=config.num_classes,
        norm_eps=config.norm_eps)
    state: dict[str, Tensor] = {}
    for name, value in network.state_dict().items():
        part, _, kind = name.rpartition('.')
        if part in TOP:
            state[f'{TOP[part][1]}.{kind}'] = value
        elif part in EMBEDDINGS:
            for i in range(len(network.blocks)):
                state[f'transformer_blocks.{i}.norm1.emb.{EMBEDDINGS[part][1]}.{kind}'] = value
        else:
            _, i, own = part.split('.', 2)
            rows = zip(QKV, value.chunk(3)) if own == 'qkv' else [('', value)]
            state |= {f'transformer_blocks.{i}.attn1.{each}.{kind}' if each else
                      f'transformer_blocks.{i}.{BLOCK[own][1]}.{kind}': part for each, part in rows}
    theirs.load_state_dict(state)
    return theirs.to(network.dtype).train(network.training)


@torch.no_grad()
def without_variance(network: DiT) -> DiT:
    """The network without the second half of its output channels."""
    config = {key: value for key, value in network.config.items() if not key.startswith('_')}
    half = config['out_channels'] // 2
    slim = DiT(**{**config, 'out_channels': half})
    state = network.state_dict()
    # A patch's values are listed as (row, column, channel).
    for name in ('proj_out.weight', 'proj_out.bias'):
        state[name] = state[name].unflatten(0, (-1, 2 * half))[:, :half].flatten(0, 1)
    slim.load_state_dict(state)
    return nn.Module.to(slim, network.dtype).train(network.training)


@torch.no_grad()
def reversed_time(network: DiT) -> None:
    """Turn SiT's network of time 1 - s into ours of time s, in place; the velocity changes its sign.

    It reads cos and sin of (1 - s) w. With cos (1 - s) w = cos w cos s w + sin w sin s w, and the like for the sine,
    the layer after the sinusoids takes the constants.
    """
    layer = network.time_embedding.linear_1
    half = TIME_CHANNELS // 2
    w = 10_000.0**-(torch.arange(half, dtype=torch.float64) / half)
    cosines, sines = layer.weight.double().chunk(2, dim=1)
    layer.weight.copy_(torch.cat([cosines * w.cos() + sines * w.sin(), cosines * w.sin() - sines * w.cos()], dim=1))
    for parameter in network.proj_out.parameters():
        parameter.neg_()


def _load(network: DiT, state: Mapping[str, Tensor], what: str) -> None:
    own = network.state_dict()
    wrong = [name for name in own if name not in state or state[name].shape != own[name].shape]
    if wrong:
        raise CheckpointError(f'This is not a network of {what}: {len(wrong)} of its {len(own)} weights are missing or '
                              f'of another shape, such as {", ".join(wrong[:3])}.')
    network.load_state_dict(state)
