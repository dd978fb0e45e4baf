"""A diffusion transformer that runs at several widths and depths with one set of weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimdiff.models.backbones.dit import DiT
from slimdiff.models.backbones.slimmable.importance import order_channels
from slimdiff.models.backbones.slimmable.network import SlimmableNetwork
from slimdiff.models.layers.channels import Axes, Channels, affine, prefixed, whole
from slimdiff.registry import MODELS
from slimdiff.sampling.actions import Run


class Skipped(nn.Module):
    """In place of a block that does not run at some depth."""

    def forward(self, x: Tensor, condition: Tensor, context: Tensor | None = None) -> Tensor:
        return x


@MODELS.register_module()
class SlimmableDiT(SlimmableNetwork, DiT):
    """A :class:`~slimdiff.DiT` that also runs narrower, with fewer heads, hidden and token channels, and shallower.

    The two axes of DyDiT (Zhao et al., ICLR 2025) and TinyFusion (Fang et al., CVPR 2025), for one network that keeps
    all of its sizes. A width keeps whole heads. A depth keeps the first blocks of ``block_order``, in the order in
    which they stand.

    Args:
        widths: shares of the heads, 1.0 among them.
        depths: shares of the blocks, 1.0 among them.
        block_order: all blocks, the most important first; by default each next one is the farthest from those before.
        **dit: arguments of :class:`~slimdiff.DiT`.

    Raises:
        ValueError: a width that keeps no whole number of heads, or a depth that keeps no whole number of blocks or
            leaves a group without any; the legal ones are listed. An order that is no permutation of the blocks.
    """

    dense_class = DiT

    def __init__(self, widths: Sequence[float] = (0.5, 1.0), depths: Sequence[float] = (1.0, ),
                 block_order: Sequence[int] | None = None, **dit: Any) -> None:
        super().__init__(**dit)
        order = spread_out(self.groups) if block_order is None else list(block_order)
        if sorted(order) != list(range(len(self.blocks))):
            raise ValueError(f'block_order: got {order}; it must hold each of the blocks 0..{len(self.blocks) - 1} '
                             'once.')
        self.block_order, self._order_is_open = order, block_order is None
        self.widths = check_shares('widths', widths, self.config.num_attention_heads, 'heads', self._fits_width)
        self.depths = check_shares('depths', depths, len(self.blocks), 'blocks', self._fits_depth)
        self.register_to_config(widths=list(self.widths), depths=list(self.depths), block_order=order)

    def _fits_width(self, width: float) -> bool:
        return (self.config.num_attention_heads * self.config.attention_head_dim * width) % 4 == 0

    def _fits_depth(self, depth: float) -> bool:
        kept = self.kept_blocks(depth)
        return all(any(i in group for i in kept) for group in self.groups)

    def kept_blocks(self, depth: float) -> list[int]:
        """The blocks that run at ``depth``, in their order."""
        return sorted(self.block_order[:round(depth * len(self.blocks))])

    def check_run(self, run: Run) -> Run:
        for axis in ('width', 'depth'):
            value, own = getattr(run, axis), getattr(self, f'{axis}s')
            if value not in own:
                raise ValueError(f'{axis}: got {value:g}; this network has {", ".join(f"{v:g}" for v in own)}.')
        return run

    def dense(self, run: Run) -> DiT:
        """With :class:`Skipped` in place of blocks that do not run, so that the others keep their names."""
        config = {key: value for key, value in self.config.items()
                  if not key.startswith('_') and key not in ('widths', 'depths', 'block_order')}
        network = DiT(**{**config, 'num_attention_heads': round(config['num_attention_heads'] * run.width)})
        for i in set(range(len(self.blocks))) - set(self.kept_blocks(run.depth)):
            network.blocks[i] = Skipped()
        return network

    def names_at(self, run: Run) -> dict[str, str]:
        skipped = tuple(f'blocks.{i}.' for i in set(range(len(self.blocks))) - set(self.kept_blocks(run.depth)))
        return {name: name for name, _ in self.named_parameters() if not name.startswith(skipped or ('\0', ))}

    @torch.no_grad()
    def extract(self, width: float, depth: float = 1.0) -> DiT:
        """As of every slimmable network; blocks that do not run are left out, and the others move up."""
        network = super().extract(width, depth)
        network.keep_blocks(self.kept_blocks(depth))
        return network

    def stage_channels(self) -> dict[str, Channels]:
        """The channels of what each block gives (the taps ``blocks.0``, ...); a skipped one passes its input on."""
        return {f'blocks.{i}': self._stream for i in range(len(self.blocks))}

    @property
    def _stream(self) -> Channels:
        # Positions are four parts, the bands of an up-sampler, too.
        return Channels.of(self.config.num_attention_heads * self.config.attention_head_dim, 4)

    def make_axes(self) -> dict[str, Axes]:
        stream = self._stream
        condition = Channels.of(stream.size)
        axes = (affine('time_embedding.linear_1', condition, None)
                | affine('time_embedding.linear_2', condition, condition) | affine('patch_embedding', stream, None)
                | affine('modulation_out', stream.times(2), condition) | affine('proj_out', None, stream))
        if self.class_embedding is not None:
            axes['class_embedding.weight'] = (None, condition)
        for i, block in enumerate(self.blocks):
            axes |= prefixed(f'blocks.{i}', block.channel_axes(stream))
        for i in range(self.levels):
            axes |= prefixed(f'merges.{i}', resampler_axes(self.merges[i], stream))
            axes |= prefixed(f'splits.{i}', resampler_axes(self.splits[i], stream))
            axes |= affine(f'skips.{i}', stream, stream + stream)
        return axes

    @torch.no_grad()
    def order_by_importance(self) -> int:
        """Order heads, hidden channels and blocks, and return how many channels and blocks moved.

        Heads and hidden channels are permuted (:mod:`slimdiff.models.backbones.slimmable.importance`); blocks stay
        where they are, and ``block_order`` is by their influence, 1 - cos(entering tokens, leaving tokens) (Men et al.
        2024), on noise at timesteps from clean to noisy.
        """
        moved = order_channels(self, self.widths)
        influence = block_influence(self)
        best = sorted(range(len(influence)), key=lambda i: -influence[i])
        first = [next(i for i in best if i in group) for group in self.groups]  # no group loses all of its blocks
        order = first + [i for i in best if i not in first]
        moved += sum(a != b for a, b in zip(order, self.block_order))
        self._set_order(order)
        return moved

    def adopt(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Take the order of blocks that weights were trained with, if the config says none; returns what changed."""
        order = recorded.get('block_order')
        if not self._order_is_open or not order or sorted(order) != sorted(self.block_order):
            return {}
        self._set_order(list(order))
        return {'block_order': self.block_order}

    def _set_order(self, order: list[int]) -> None:
        self.block_order = order
        self.register_to_config(block_order=order)
        self.__dict__.pop('_views', None)


@torch.no_grad()
def block_influence(network: DiT, timesteps: int = 1000, images: int = 16) -> list[float]:
    """How much each block turns the tokens that go through it: mean of 1 - cos(in, out), on Gaussian noise.

    Args:
        timesteps: they are drawn below it.
        images: how many.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (images, network.config.in_channels, *(network.config.sample_size, ) * 2)
    sample = torch.randn(shape, generator=generator).to(network.device, network.dtype)
    times = torch.linspace(0, timesteps - 1, images).round().to(network.device)
    context = None
    if network.config.context_channels:
        context = torch.randn(images, 8, network.config.context_channels, generator=generator).to(sample)
    found: list[float] = []
    handles = [block.register_forward_hook(lambda module, inputs, output: found.append(
        float(1 - F.cosine_similarity(inputs[0].float(), output.float(), dim=-1).mean()))) for block in network.blocks]
    try:
        network(sample, times, encoder_hidden_states=context)
    finally:
        for handle in handles:
            handle.remove()
    return found


def resampler_axes(module: nn.Module, stream: Channels) -> dict[str, Axes]:
    """The axes that a resampler tells, or of one that doesn't those that are as long as the stream."""
    if hasattr(module, 'channel_axes'):
        return module.channel_axes(stream)
    return {name: tuple(stream if size == stream.size else None for size in value.shape)
            for name, value in module.named_parameters()}


def spread_out(groups: Sequence[range]) -> list[int]:
    """All blocks, so that every beginning of the list is spread over the network: one of each group, then always the
    one farthest from those before (of several the first)."""
    order = [group[0] for group in groups]
    left = [i for group in groups for i in group if i not in order]
    while left:
        order.append(max(left, key=lambda i: (min(abs(i - j) for j in order), -i)))
        left.remove(order[-1])
    return order


def check_shares(axis: str, given: Sequence[float], count: int, parts: str, fits: Any) -> tuple[float, ...]:
    """The shares in rising order.

    Args:
        count, parts: how many there are, of what.
        fits: whether a share that keeps a whole number of parts can be run.

    Raises:
        ValueError: none, one outside (0, 1], the whole not among them, or one that can't be run.
    """
    shares = [float(share) for share in given]
    if not shares or any(not 0 < s <= 1 for s in shares) or max(shares) != 1 or len(set(shares)) < len(shares):
        raise ValueError(f'{axis}: got {list(given)}; they are different shares of the {parts} in (0, 1], and 1.0 is '
                         'one of them.')
    legal = [k / count for k in range(1, count + 1) if fits(k / count)]
    for share in shares:
        if whole(share * count) is None or not fits(share):
            raise ValueError(f'{axis}: this DiT has no {share:g} of its {count} {parts}. Legal: '
                             f'{", ".join(f"{k:.4g}" for k in legal)}.')
    return tuple(sorted(shares))


# diffusers and our registry read from the signature which keys of a config to pass on.
SlimmableDiT.__init__.__signature__ = inspect.Signature([
    *inspect.signature(DiT.__init__).parameters.values(),
    *list(inspect.signature(SlimmableDiT.__init__).parameters.values())[1:4]])
# The path that users and exported folders name; it will not move.
SlimmableDiT.__module__ = 'slimdiff'
