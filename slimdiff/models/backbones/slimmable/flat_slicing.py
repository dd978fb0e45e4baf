"""All slices of a width by one gather: what a small network would spend on hundreds of small copies."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from slimdiff.functional.haar import is_channels_last
from slimdiff.models.backbones.slimmable.slicing import Slicer

#: networks of more weights than this are cut weight by weight: a copy of a block is faster than a gather
FLAT_LIMIT = 4_000_000


def is_small(weights: Iterable[Tensor]) -> bool:
    """Whether a network of these weights is small enough for :class:`FlatSlicer`."""
    return sum(weight.numel() for weight in weights) <= FLAT_LIMIT


class Kinds(NamedTuple):
    """Of all weights of a network, what decides whether they can be joined, and where their elements then lie."""

    dtypes: list[torch.dtype]
    devices: list[torch.device]
    strides: list[tuple[int, ...]]

    @classmethod
    def of(cls, weights: Collection[Tensor]) -> Kinds:
        return cls([weight.dtype for weight in weights], [weight.device for weight in weights],
                   [weight.stride() for weight in weights])

    @property
    def are_one(self) -> bool:
        """Whether all have one dtype and place."""
        return len(set(self.dtypes)) == len(set(self.devices)) == 1


class FlatSlicer:
    """Cuts all weights of a network at one width.

    The weights are joined to one vector, of which the slices are gathered; going back the gradient is scattered into
    one vector of zeros. It is for weights of these kinds: others want another one.

    Args:
        weights: of the wide network, by name.
        slicers: of each of them.
    """

    def __init__(self, weights: Mapping[str, Tensor], slicers: Mapping[str, Slicer]) -> None:
        self.names = list(weights)
        self.shapes = [slicers[name].shape for name in self.names]
        self.channels_last = [is_channels_last(weight) for weight in weights.values()]
        self.total, found = 0, []
        for name, weight, last in zip(self.names, weights.values(), self.channels_last):
            places = unflattened(torch.arange(self.total, self.total + weight.numel()), tuple(weight.shape), last)
            found.append(flattened(slicers[name].cut(places), last))
            self.total += weight.numel()
        self.sizes = [len(places) for places in found]
        self.index = torch.cat(found).to(next(iter(weights.values())).device)

    def __call__(self, weights: Mapping[str, Tensor]) -> list[Tensor]:
        """The slices, in the order of the weights."""
        gathered = _Gather.apply(self, *(weights[name] for name in self.names))
        return [unflattened(part, shape, last)
                for part, shape, last in zip(gathered.split(self.sizes), self.shapes, self.channels_last)]


class _Gather(torch.autograd.Function):

    @staticmethod
    def forward(ctx, slicer: FlatSlicer, *weights: Tensor) -> Tensor:
        ctx.slicer = slicer
        ctx.shapes = [tuple(weight.shape) for weight in weights]
        flat = torch.cat([flattened(weight, last) for weight, last in zip(weights, slicer.channels_last)])
        return flat.index_select(0, slicer.index)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        slicer = ctx.slicer
        wide = gradient.new_zeros(slicer.total).index_copy_(0, slicer.index, gradient)
        parts = wide.split([torch.Size(shape).numel() for shape in ctx.shapes])
        return (None, *(unflattened(part, shape, last) if needed else None
                        for part, shape, last, needed in zip(parts, ctx.shapes, slicer.channels_last,
                                                             ctx.needs_input_grad[1:])))


def flattened(weight: Tensor, channels_last: bool) -> Tensor:
    """A vector of the weight in its order in memory: a view."""
    return (weight.permute(0, 2, 3, 1) if channels_last else weight).reshape(-1)


def unflattened(vector: Tensor, shape: tuple[int, ...], channels_last: bool) -> Tensor:
    """The inverse of :func:`flattened`."""
    if not channels_last:
        return vector.view(shape)
    rows, columns, height, width = shape
    return vector.view(rows, height, width, columns).permute(0, 3, 1, 2)
