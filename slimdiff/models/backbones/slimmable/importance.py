"""Put the channels that matter most first, where that changes nothing: a dense network as the start of a slimmable one.

A slim network keeps the first channels of each part. Those of a trained dense network stand in no order, so that its
slices are as good as random ones. Inside a block the order is free: the hidden channels of a residual block (norm group
by norm group), the heads of an attention or the channels of each head, and the hidden channels of a feed-forward can be
permuted together with the weights that read them, and the network computes the same. The feature maps between blocks
are tied to one another by sums and concatenations under GroupNorm, and stay as they are.

Importance is the L2 norm of the weights into a channel times that of the weights out of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slimdiff.models.backbones.dit.dit import DiTBlock
from slimdiff.models.layers import ResidualBlock
from slimdiff.models.layers.attention import Attention, GatedFeedForward, SelfAttentionBlock, drops_heads


@torch.no_grad()
def order_channels(network: nn.Module, widths: Sequence[float]) -> int:
    """Order every block of ``network`` in place, and return how many channels moved.

    The network's output is what it was, up to the rounding of sums in another order.

    Args:
        widths: of the slimmable network that it becomes: they decide between whole heads and the channels of a head.
    """
    moved = 0
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            moved += _order_residual(module)
        elif isinstance(module, SelfAttentionBlock):
            moved += _order_attention(*module.qkv.weight.chunk(3), module.out.weight, module.heads, widths,
                                      module.qkv.bias.chunk(3))
        elif isinstance(module, Attention):
            moved += _order_attention(module.q.weight, module.k.weight, module.v.weight, module.out.weight,
                                      module.heads, widths)
        elif isinstance(module, GatedFeedForward):
            moved += _order_feed_forward(module)
        elif isinstance(module, DiTBlock):
            moved += _order_attention(*module.qkv.weight.chunk(3), module.out.weight, module.heads, widths,
                                      module.qkv.bias.chunk(3))
            order = (_norm(module.up.weight, 0) * _norm(module.down.weight, 1)).argsort(descending=True, stable=True)
            moved += _permute(order, [module.up.weight, module.up.bias], [module.down.weight])
    return moved


def _order_residual(block: ResidualBlock) -> int:
    groups = block.norm2.num_groups
    score = _norm(block.conv1.weight, 0) * _norm(block.conv2.weight, 1)
    order = _by_group(score, groups)
    rows = [block.conv1.weight, block.conv1.bias, block.norm2.weight, block.norm2.bias,
            *block.embedding.weight.chunk(2 if block.scale_shift_norm else 1),
            *block.embedding.bias.chunk(2 if block.scale_shift_norm else 1)]
    return _permute(order, rows, [block.conv2.weight])


def _order_attention(q: Tensor, k: Tensor, v: Tensor, out: Tensor, heads: int, widths: Sequence[float],
                     biases: Sequence[Tensor] = ()) -> int:
    """Queries with keys, values with the output; all four together where whole heads move."""
    reading, writing = _norm(q, 0) * _norm(k, 0), _norm(v, 0) * _norm(out, 1)
    rows = (q, k, *biases[:2]), (v, *biases[2:])
    if drops_heads(heads, widths):
        order = _by_group(reading * writing, heads)
        return _permute(order, [*rows[0], *rows[1]], [out])
    return (_permute(_within_group(reading, heads), rows[0], [])
            + _permute(_within_group(writing, heads), rows[1], [out]))


def _order_feed_forward(block: GatedFeedForward) -> int:
    values, gates = block.up.weight.chunk(2)
    order = _within_group(_norm(values, 0) * _norm(gates, 0) * _norm(block.down.weight, 1), 1)
    return _permute(order, [values, gates, *block.up.bias.chunk(2)], [block.down.weight])


def _norm(weight: Tensor, axis: int) -> Tensor:
    """L2 norm of the slices of ``weight`` along ``axis``."""
    return weight.transpose(0, axis).flatten(1).float().norm(dim=1)


def _by_group(score: Tensor, groups: int) -> Tensor:
    """A permutation that moves whole groups of neighbours, the one of the largest sum first."""
    members = torch.arange(len(score), device=score.device).view(groups, -1)
    return members[score.view(groups, -1).sum(1).argsort(descending=True, stable=True)].flatten()


def _within_group(score: Tensor, groups: int) -> Tensor:
    """A permutation inside each group of neighbours, the largest first."""
    order = score.view(groups, -1).argsort(dim=1, descending=True, stable=True)
    return (order + torch.arange(groups, device=score.device)[:, None] * order.shape[1]).flatten()


def _permute(order: Tensor, rows: Sequence[Tensor], columns: Sequence[Tensor]) -> int:
    for weight in rows:
        weight.copy_(weight[order])
    for weight in columns:
        weight.copy_(weight[:, order])
    return int((order != torch.arange(len(order), device=order.device)).sum())
