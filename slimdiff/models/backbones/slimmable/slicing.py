"""Slices of weights along channel axes, with gradients, one copy each way."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from slimdiff.models.layers.channels import Axes

#: where a block of the slice comes from and goes to: one (source, target) pair of slices for each axis
Blocks = list[tuple[tuple[slice, ...], tuple[slice, ...]]]


class Slicer:
    """Cuts one weight at one width.

    A single block is a view: nothing is copied going forward. Several blocks (``[main | skip]``, bands) are copied to
    one tensor. Going back, the gradient is written into zeros of the wide weight's shape, in one pass.

    Args:
        shape: of the wide weight.
        axes: its channel axes; those after the last given are the same at every width (a convolution's kernel).
        width: in (0, 1].
    """

    def __init__(self, shape: torch.Size, axes: Axes, width: float) -> None:
        ranges = [[(0, size)] if axis is None else axis.ranges(width)
                  for size, axis in itertools.zip_longest(shape, axes)]
        self.shape = tuple(sum(stop - start for start, stop in axis) for axis in ranges)
        self.blocks: Blocks = []
        for combination in itertools.product(*(list(zip(axis, _packed(axis))) for axis in ranges)):
            self.blocks.append((tuple(slice(*source) for source, _ in combination),
                                tuple(slice(*target) for _, target in combination)))
        self.whole = self.shape == tuple(shape)

    def __call__(self, weight: Tensor) -> Tensor:
        if self.whole:
            return weight
        if torch.compiler.is_compiling():
            return self.cut(weight)
        return _Cut.apply(weight, self)

    def cut(self, weight: Tensor) -> Tensor:
        """The slice, by plain indexing."""
        if len(self.blocks) == 1:
            return weight[self.blocks[0][0]]
        out = torch.empty_like(weight[tuple(slice(size) for size in self.shape)])
        for source, target in self.blocks:
            out[target] = weight[source]
        return out

    def spread(self, gradient: Tensor, like: Tensor) -> Tensor:
        """The gradient of the wide weight: that of the slice at its places, else zero."""
        out = torch.zeros_like(like)
        for source, target in self.blocks:
            out[source] = gradient[target]
        return out


class _Cut(torch.autograd.Function):

    @staticmethod
    def forward(ctx, weight: Tensor, slicer: Slicer) -> Tensor:
        ctx.slicer = slicer
        ctx.save_for_backward(weight)
        return slicer.cut(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.slicer.spread(gradient, ctx.saved_tensors[0]), None


def _packed(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same ranges moved together, without gaps."""
    packed, at = [], 0
    for start, stop in ranges:
        packed.append((at, at + stop - start))
        at += stop - start
    return packed
