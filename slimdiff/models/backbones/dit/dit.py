"""A diffusion transformer: patches as tokens, blocks that the timestep and the class modulate.

The plain one is DiT (Peebles and Xie, ICCV 2023) and SiT (Ma et al., ECCV 2024), weight for weight
(:mod:`slimdiff.models.converters.dit`). With three groups of blocks or more it is U-shaped: a registered down-sampler
merges tokens four to one between two groups, an up-sampler splits them again on the way back, and a linear layer joins
what comes back with what was left (the long skip of U-ViT, Bao et al., CVPR 2023). With the wavelet-gated resamplers
that is Spectral Diffusion's idea on tokens: ``layers=(2, 8, 2)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from slimdiff.models.backbones.adapt import Prediction
from slimdiff.models.layers.attention import Attention, multi_head_attention, to_map, to_tokens
from slimdiff.models.layers.channels import Axes, Channels, affine, prefixed
from slimdiff.models.layers.labels import labels_or_null
from slimdiff.models.layers.residual import zero_init
from slimdiff.registry import MODELS, RESAMPLERS

#: sinusoids of the timestep, at every width
TIME_CHANNELS = 256


def sincos_positions(channels: int, height: int, width: int, base: tuple[int, int]) -> Tensor:
    """Fixed positions (1, height * width, channels): a quarter of the channels each for the sines and cosines of the
    column, then of the row, at ``channels / 4`` frequencies from 1 to 1/10,000 (DiT's 2-d sin-cos embedding).

    Args:
        base: the grid that coordinates are measured in: another grid spreads its tokens over the same extent.
    """
    frequencies = 10_000.0**-(np.arange(channels // 4) / (channels // 4))
    rows, columns = np.arange(height) * base[0] / height, np.arange(width) * base[1] / width
    waves = [np.broadcast_to(wave(angles), (height, width, channels // 4))
             for angles in (columns[None, :, None] * frequencies, rows[:, None, None] * frequencies)
             for wave in (np.sin, np.cos)]
    # From numpy: on the CPU also where a network is made on the meta device.
    return torch.from_numpy(np.concatenate(waves, -1).reshape(1, height * width, channels).astype(np.float32))


class DiTBlock(nn.Module):
    """Self-attention and feed-forward, each under adaLN-Zero: the condition shifts and scales what enters, and gates
    what leaves (Peebles and Xie 2023, section 3.2). Cross-attention to a context stands between, as in PixArt.

    Args:
        channels: of the tokens, a multiple of ``heads``.
        heads: of the attention.
        hidden: channels of the feed-forward.
        context_channels: of the tokens of a context; None for no cross-attention.
        norm_eps: of the second norm; that of the first is 1e-6.
    """

    def __init__(self, channels: int, heads: int, hidden: int, context_channels: int | None, norm_eps: float) -> None:
        super().__init__()
        self.heads, self.norm_eps = heads, norm_eps
        self.modulation = zero_init(nn.Linear(channels, 6 * channels))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.cross_attention = Attention(channels, heads, context_channels) if context_channels else None
        self.up = nn.Linear(channels, hidden)
        self.down = nn.Linear(hidden, channels)

    def forward(self, x: Tensor, condition: Tensor, context: Tensor | None = None) -> Tensor:
        """x (N, T, C), the activated condition (N, C), context (N, S, C') -> (N, T, C)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, dim=-1)
        q, k, v = self.qkv(modulate(x, shift1, scale1, 1e-6)).chunk(3, dim=-1)
        x = x + gate1 * self.out(multi_head_attention(q, k, v, self.heads))
        if self.cross_attention is not None:
            x = x + self.cross_attention(x, context)
        h = F.gelu(self.up(modulate(x, shift2, scale2, self.norm_eps)), approximate='tanh')
        return x + gate2 * self.down(h)

    def channel_axes(self, stream: Channels) -> dict[str, Axes]:
        """Whole heads and the first hidden channels are kept; the condition is as wide as the stream."""
        inner, hidden = Channels.of(stream.size), Channels.of(self.up.out_features)
        axes = (affine('modulation', stream.times(6), inner) | affine('qkv', inner.times(3), stream)
                | affine('out', stream, inner) | affine('up', hidden, stream) | affine('down', stream, hidden))
        if self.cross_attention is not None:
            axes |= prefixed('cross_attention', self.cross_attention.channel_axes(stream, inner, None))
        return axes


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Layer norm without weights of its own, then those of the condition."""
    return F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift


@MODELS.register_module()
class DiT(ModelMixin, ConfigMixin):
    """Diffusion transformer (DiT, SiT), plain or U-shaped; of classes, of text, or unconditional.

    Args:
        sample_size: height and width that pipelines sample at.
        in_channels, out_channels: of the images or latents.
        patch_size: side of the square of pixels that becomes a token.
        num_attention_heads, attention_head_dim: their product is the number of channels of a token.
        layers: blocks of each group, an odd number of groups: those before the middle one end in ``downsampler``,
            those after it begin with ``upsampler`` and a skip. ``(12, )`` is the plain transformer.
        mlp_ratio: hidden channels of the feed-forward, in those of a token.
        downsampler, upsampler: configs of registered resamplers; ``channels`` is filled in.
        num_classes: of ``class_labels``; label ``num_classes`` is the null class of classifier-free guidance.
        context_channels: width of ``encoder_hidden_states``, for cross-attention in every block; None for none.
        norm_eps: of the norm before the feed-forward: 1e-6 in DiT's code, 1e-5 in diffusers'.
        freq_shift, time_scale: of the sinusoids of the timestep: 0 in DiT's code, 1 in diffusers'; the timestep is
            multiplied by ``time_scale`` (SiT's time runs from 0 to 1).
        shallow_layers: blocks at either end of a plain one that run where features are reused (:meth:`shallow`); of a
            U-shaped one those are its outermost groups.

    Raises:
        ValueError: sizes that do not divide, an even number of groups, or a group without blocks at both ends.
    """

    #: what other networks may have otherwise than the weights' training: positions are measured in it
    computes_with = ('sample_size', )
    _supports_gradient_checkpointing = True
    gradient_checkpointing = False

    @register_to_config
    def __init__(self,
                 sample_size: int = 32,
                 in_channels: int = 4,
                 out_channels: int = 4,
                 patch_size: int = 2,
                 num_attention_heads: int = 6,
                 attention_head_dim: int = 64,
                 layers: Sequence[int] = (12, ),
                 mlp_ratio: float = 4.0,
                 downsampler: Mapping[str, Any] = dict(type='WaveletGatedDown'),
                 upsampler: Mapping[str, Any] = dict(type='WaveletGatedUp'),
                 num_classes: int | None = None,
                 context_channels: int | None = None,
                 norm_eps: float = 1e-6,
                 freq_shift: float = 0.0,
                 time_scale: float = 1.0,
                 shallow_layers: int = 1) -> None:
        super().__init__()
        channels = num_attention_heads * attention_head_dim
        if channels % 4:
            raise ValueError(f'DiT: {num_attention_heads} heads of {attention_head_dim} are {channels} channels; the '
                             'positions need a multiple of 4.')
        self.groups = groups_of(layers)
        self.levels = len(layers) // 2
        self.size_multiple = patch_size * 2**self.levels
        self.check_size(sample_size, sample_size)
        self.time_proj = Timesteps(TIME_CHANNELS, True, freq_shift)
        self.time_embedding = TimestepEmbedding(TIME_CHANNELS, channels)
        self.class_embedding = nn.Embedding(num_classes + 1, channels) if num_classes else None
        self.patch_embedding = nn.Conv2d(in_channels, channels, patch_size, stride=patch_size)
        self.blocks = nn.ModuleList(
            DiTBlock(channels, num_attention_heads, round(mlp_ratio * channels), context_channels, norm_eps)
            for _ in range(sum(layers)))
        self.merges, self.splits = (
            nn.ModuleList(RESAMPLERS.build({**config, 'channels': channels}, kind=nn.Module)
                          for _ in range(self.levels)) for config in (downsampler, upsampler))
        self.skips = nn.ModuleList(nn.Linear(2 * channels, channels) for _ in range(self.levels))
        self.modulation_out = zero_init(nn.Linear(channels, 2 * channels))
        self.proj_out = zero_init(nn.Linear(channels, patch_size**2 * out_channels))
        grid = (sample_size // patch_size, ) * 2
        self.register_buffer('positions', sincos_positions(channels, *grid, grid), persistent=False)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """DiT's initialisation; what is zero stays zero."""
        for block in self.blocks:
            for linear in (m for name, m in block.named_modules() if isinstance(m, nn.Linear) and name != 'modulation'):
                _xavier(linear)
        for linear in self.skips:
            _xavier(linear)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        nn.init.zeros_(self.patch_embedding.bias)
        for weight in (self.time_embedding.linear_1.weight, self.time_embedding.linear_2.weight):
            nn.init.normal_(weight, std=0.02)
        if self.class_embedding is not None:
            nn.init.normal_(self.class_embedding.weight, std=0.02)

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError unless an image of this size becomes whole patches at every level."""
        m = self.size_multiple
        if height < 1 or width < 1 or height % m or width % m:
            raise ValueError(f'Image size {height}x{width} does not fit this DiT: with patches of '
                             f'{self.config.patch_size} merged {self.levels} times, height and width must be multiples '
                             f'of {m}.')

    def forward(self,
                sample: Tensor,
                timestep: Tensor | float | int,
                class_labels: Tensor | None = None,
                encoder_hidden_states: Tensor | None = None,
                return_dict: bool = True) -> Prediction | tuple[Tensor]:
        """Predict noise, x0, v or velocity, whichever the network was trained for.

        Args:
            sample: (N, C, H, W) noisy images.
            timestep: scalar or (N,).
            class_labels: (N,) integers; None is the null class.
            encoder_hidden_states: (N, S, context_channels), for cross-attention.
            return_dict: False for a plain tuple.

        Returns:
            ``Prediction`` with ``.sample`` of (N, out_channels, H, W).

        Raises:
            ValueError: an image size that is not of whole patches, a label out of range, a context that is missing or
                not wanted.
        """
        output, _ = self.with_features(sample, timestep, class_labels, encoder_hidden_states)
        return output if return_dict else (output.sample, )

    def with_features(self,
                      sample: Tensor,
                      timestep: Tensor | float | int,
                      class_labels: Tensor | None = None,
                      encoder_hidden_states: Tensor | None = None) -> tuple[Prediction, Tensor]:
        """:meth:`forward`, and the deep features (N, T, C): what all but the outermost blocks have added to the tokens.

        They change little from one denoising step to the next, so a later step may take them for its own (Delta-DiT,
        Chen et al. 2024): see :meth:`shallow`.
        """
        step = self._enter(sample, timestep, class_labels, encoder_hidden_states)
        first, last = self._outermost()
        entering = self._run(first, step.tokens, step)
        if self.levels:
            leaving = self._below(0, entering, step.grid, step)
        else:
            leaving = self._run(range(first.stop, last.start), entering, step)
        return self._leave(self._run(last, leaving, step), step), leaving - entering

    def shallow(self,
                sample: Tensor,
                timestep: Tensor | float | int,
                class_labels: Tensor | None,
                encoder_hidden_states: Tensor | None,
                features: Tensor) -> Prediction:
        """Run the outermost blocks alone, and add deep features of :meth:`with_features` between them.

        With those of the same input this is :meth:`forward`; with an earlier step's an approximation.
        """
        step = self._enter(sample, timestep, class_labels, encoder_hidden_states)
        first, last = self._outermost()
        x = self._run(first, step.tokens, step) + features
        return self._leave(self._run(last, x, step), step)

    def keep_blocks(self, kept: Sequence[int]) -> None:
        """Leave out all other blocks, in place."""
        self.register_to_config(layers=[sum(i in group for i in kept) for group in self.groups])
        self.groups = groups_of(self.config.layers)
        self.blocks = nn.ModuleList(self.blocks[i] for i in kept)

    # ---- the way of the tokens --------------------------------------------------------------------------------

    def _enter(self, sample: Tensor, timestep: Tensor | float | int, class_labels: Tensor | None,
               context: Tensor | None) -> Step:
        self.check_size(*sample.shape[2:])
        if (context is None) != (self.config.context_channels is None):
            raise ValueError('This DiT has cross-attention: pass encoder_hidden_states (N, S, context_channels).'
                             if context is None else
                             'encoder_hidden_states were given, but this DiT has no cross-attention '
                             '(context_channels=None).')
        timestep = torch.as_tensor(timestep, device=sample.device).expand(sample.shape[0])
        tokens = self.patch_embedding(sample)
        grid = tuple(tokens.shape[2:])
        condition = self.time_embedding(self.time_proj(timestep * self.config.time_scale).to(tokens.dtype))
        if self.class_embedding is not None:
            condition = condition + self.class_embedding(
                labels_or_null(class_labels, timestep, self.config.num_classes))
        elif class_labels is not None:
            raise ValueError('class_labels were given, but this DiT is unconditional (num_classes=None).')
        return Step(to_tokens(tokens) + self._positions_of(grid).to(tokens), grid, F.silu(condition), context)

    def _positions_of(self, grid: tuple[int, int]) -> Tensor:
        side = self.config.sample_size // self.config.patch_size
        if grid == (side, side):
            return self.positions
        return sincos_positions(self.positions.shape[-1], *grid, (side, side))

    def _outermost(self) -> tuple[range, range]:
        """The blocks at either end that always run."""
        if self.levels:
            return self.groups[0], self.groups[-1]
        count = len(self.blocks)
        ends = min(self.config.shallow_layers, count // 2)
        return range(ends), range(count - ends, count)

    def _run(self, blocks: range, x: Tensor, step: Step) -> Tensor:
        for i in blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(self.blocks[i], x, step.condition, step.context)
            else:
                x = self.blocks[i](x, step.condition, step.context)
        return x

    def _below(self, level: int, x: Tensor, grid: tuple[int, int], step: Step) -> Tensor:
        """Merge the tokens of a level, run the levels below, split, and join what was left."""
        half = (grid[0] // 2, grid[1] // 2)
        merged = self._run(self.groups[level + 1], to_tokens(self.merges[level](to_map(x, *grid))), step)
        if level + 1 < self.levels:
            merged = self._below(level + 1, merged, half, step)
            merged = self._run(self.groups[-level - 2], merged, step)
        split = to_tokens(self.splits[level](to_map(merged, *half)))
        return self.skips[level](torch.cat([split, x], dim=-1))

    def _leave(self, x: Tensor, step: Step) -> Prediction:
        shift, scale = self.modulation_out(step.condition)[:, None].chunk(2, dim=-1)
        patches = to_map(self.proj_out(modulate(x, shift, scale, 1e-6)), *step.grid)
        # DiT lists a patch's values as (row, column, channel).
        p = self.config.patch_size
        sample = patches.unflatten(1, (p, p, -1)).permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)
        return Prediction(sample=sample)


class Step(NamedTuple):
    """What a call of a DiT works with: tokens (N, T, C) of a grid, the activated condition (N, C), the context."""
    tokens: Tensor
    grid: tuple[int, int]
    condition: Tensor
    context: Tensor | None


def groups_of(layers: Sequence[int]) -> list[range]:
    """The blocks of each group.

    Raises:
        ValueError: an even number of them, or one without blocks.
    """
    if len(layers) % 2 == 0 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in layers):
        raise ValueError(f'DiT: layers={list(layers)} must be an odd number of groups of at least one block each, such '
                         'as (12, ), or (2, 8, 2) for a U-shaped one.')
    return [range(sum(layers[:i]), sum(layers[:i + 1])) for i in range(len(layers))]


def _xavier(linear: nn.Linear) -> None:
    nn.init.xavier_uniform_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


# The path that exported folders name; it will not move.
DiT.__module__ = 'slimdiff'
