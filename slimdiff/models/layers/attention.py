"""Attention over the pixels of a feature map.

Both blocks take and give (N, C, H, W). In channels_last memory, a feature map *is* its token sequence: the views
to (N, H*W, C) and back cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimdiff.models.layers.channels import Axes, Channels, affine, prefixed, whole
from slimdiff.models.layers.checks import require_divisible
from slimdiff.models.layers.residual import group_norm, zero_init


def to_tokens(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H*W, C)."""
    return x.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """(N, H*W, C) -> (N, C, H, W) in channels_last memory."""
    return tokens.transpose(1, 2).unflatten(2, (height, width))


def multi_head_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attend with ``heads`` heads; q (N, L, C), k and v (N, S, C) -> (N, L, C)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (N, heads, L, C / heads)
    dtype = q.dtype
    if dtype == torch.bfloat16 and q.device.type == 'cpu' and torch.is_grad_enabled():
        # PyTorch 2.13's bf16 flash-attention *backward* on CPU takes about ten times as long as the float32 one.
        with torch.autocast('cpu', enabled=False):
            out = F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(dtype)
    else:
        out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)


def drops_heads(heads: int, widths: Iterable[float]) -> bool:
    """Whether a slimmable attention loses whole heads: every width has a whole number of them. Else each head thins."""
    return heads > 1 and all(whole(heads * width) for width in widths)


def head_channels(channels: int, heads: int, widths: Iterable[float]) -> Channels:
    """The channels that attention works in, as parts that a width cuts: one of all heads, or each head one."""
    return Channels.of(channels, 1 if drops_heads(heads, widths) else heads)


class SelfAttentionBlock(nn.Module):
    """GroupNorm, self-attention, projection, + skip: the attention block of DDPM and unconditional LDMs.

    Args:
        channels: must divide into ``norm_groups`` and ``heads``.
        heads: number of attention heads.
    """

    def __init__(self, channels: int, heads: int = 1, norm_groups: int = 32, norm_eps: float = 1e-5) -> None:
        super().__init__()
        require_divisible('SelfAttentionBlock', channels, heads, 'attention heads (heads)')
        self.heads = heads
        self.norm = group_norm('SelfAttentionBlock', channels, norm_groups, norm_eps)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(to_tokens(self.norm(x))).chunk(3, dim=-1)
        return x + to_map(self.out(multi_head_attention(q, k, v, self.heads)), *x.shape[2:])

    def channel_axes(self, stream: Channels, inner: Channels) -> dict[str, Axes]:
        """``inner``: what is attended with, whole heads or a share of each (:func:`head_channels`)."""
        return affine('norm', stream) | affine('qkv', inner.times(3), stream) | affine('out', stream, inner)


class Attention(nn.Module):
    """Multi-head attention without bias on q, k, v; keys and values come from ``context`` where one is given."""

    def __init__(self, channels: int, heads: int, context_channels: int | None = None) -> None:
        super().__init__()
        require_divisible('Attention', channels, heads, 'attention heads (heads)')
        self.heads = heads
        self.q = nn.Linear(channels, channels, bias=False)
        self.k = nn.Linear(context_channels or channels, channels, bias=False)
        self.v = nn.Linear(context_channels or channels, channels, bias=False)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        return self.out(multi_head_attention(self.q(x), self.k(context), self.v(context), self.heads))

    @staticmethod
    def channel_axes(tokens: Channels, inner: Channels, context: Channels | None) -> dict[str, Axes]:
        return {'q.weight': (inner, tokens), 'k.weight': (inner, context), 'v.weight': (inner, context),
                **affine('out', tokens, inner)}


class GatedFeedForward(nn.Module):
    """GEGLU feed-forward (Shazeer 2020): Linear to 2 x 4C, value * GELU(gate), Linear back."""

    def __init__(self, channels: int, expansion: int = 4) -> None:
        super().__init__()
        self.up = nn.Linear(channels, 2 * expansion * channels)
        self.down = nn.Linear(expansion * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(x).chunk(2, dim=-1)
        return self.down(value * F.gelu(gate))

    def channel_axes(self, tokens: Channels) -> dict[str, Axes]:
        hidden = Channels.of(self.down.in_features)
        return affine('up', hidden.times(2), tokens) | affine('down', tokens, hidden)


class CrossAttentionBlock(nn.Module):
    """LDM's "spatial transformer" (Rombach et al. 2022, appendix E.2.1): self-attention, cross-attention, feed-forward.

    Args:
        channels: must divide into ``norm_groups`` and ``heads``.
        context_channels: width of the context tokens, (N, S, context_channels).
    """

    def __init__(self, channels: int, heads: int, context_channels: int, norm_groups: int = 32) -> None:
        super().__init__()
        self.norm = group_norm('CrossAttentionBlock', channels, norm_groups, 1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.self_attention = Attention(channels, heads)
        self.cross_attention = Attention(channels, heads, context_channels)
        self.feed_forward = GatedFeedForward(channels)
        self.proj_out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if context is None:
            raise ValueError('This UNet has cross-attention: pass encoder_hidden_states (N, S, context_channels).')
        h = self.proj_in(to_tokens(self.norm(x)))
        h = h + self.self_attention(self.norm1(h))
        h = h + self.cross_attention(self.norm2(h), context)
        h = h + self.feed_forward(self.norm3(h))
        return x + to_map(self.proj_out(h), *x.shape[2:])

    def channel_axes(self, stream: Channels, inner: Channels) -> dict[str, Axes]:
        """``inner``: see :meth:`SelfAttentionBlock.channel_axes`. The context is as wide at every width."""
        tokens = Channels.of(stream.size)
        axes = affine('norm', stream) | affine('proj_in', tokens, stream) | affine('proj_out', stream, tokens)
        for name in ('norm1', 'norm2', 'norm3'):
            axes |= affine(name, tokens)
        return (axes | prefixed('self_attention', self.self_attention.channel_axes(tokens, inner, tokens))
                | prefixed('cross_attention', self.cross_attention.channel_axes(tokens, inner, None))
                | prefixed('feed_forward', self.feed_forward.channel_axes(tokens)))
