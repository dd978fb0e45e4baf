"""Channel axes as parts: what a slimmable network keeps of an axis at a width.

A weight of a slim network is a slice of the wide one's. Along a channel axis the slice is not always a prefix: an input
``[main | skip]`` is two feature maps, the queries, keys and values of an attention are three, a wavelet transform has
four bands. Cut as one prefix, the second map of a half-wide network would meet weights that belong to the first (DDSM's
released code slices concatenations so). Here an axis says which parts it has, and each part keeps its first channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Channels:
    """A channel axis made of parts of these sizes, one after the other."""
    parts: tuple[int, ...]

    @classmethod
    def of(cls, channels: int, parts: int = 1) -> Channels:
        """``channels`` in ``parts`` equal parts.

        Raises:
            ValueError: parts that don't divide the channels.
        """
        if channels % parts:
            raise ValueError(f'{channels} channels do not divide into {parts} equal parts.')
        return cls((channels // parts, ) * parts)

    def __add__(self, other: Channels) -> Channels:
        """Both, one after the other, as ``torch.cat`` joins feature maps."""
        return Channels(self.parts + other.parts)

    def times(self, count: int) -> Channels:
        """``count`` copies one after the other: queries, keys and values, or the bands of a wavelet transform."""
        return Channels(self.parts * count)

    def each(self, count: int) -> Channels:
        """Every channel becomes ``count`` neighbouring ones, as ``pixel_unshuffle`` does."""
        return Channels(tuple(part * count for part in self.parts))

    @property
    def size(self) -> int:
        return sum(self.parts)

    def kept(self, width: float) -> tuple[int, ...]:
        """How many channels each part keeps at ``width``.

        Raises:
            ValueError: a part that doesn't keep a whole number, of at least one.
        """
        kept = tuple(whole(part * width) for part in self.parts)
        if None in kept:
            raise ValueError(f'{" + ".join(map(str, self.parts))} channels have no whole share of {width:g}.')
        return kept

    def ranges(self, width: float) -> list[tuple[int, int]]:
        """What is kept of the axis: [start, stop) of each part, joined where one ends at the next."""
        found: list[tuple[int, int]] = []
        start = 0
        for part, keep in zip(self.parts, self.kept(width)):
            if found and found[-1][1] == start:
                found[-1] = (found[-1][0], start + keep)
            else:
                found.append((start, start + keep))
            start += part
        return found


#: of one parameter: its axes in order, None for one that is the same at every width
Axes = tuple[Channels | None, ...]


def prefixed(prefix: str, axes: Mapping[str, Axes]) -> dict[str, Axes]:
    """The same axes under longer names."""
    return {f'{prefix}.{name}': value for name, value in axes.items()}


def affine(name: str, *axes: Channels | None) -> dict[str, Axes]:
    """Axes of a layer with weight (out, in) or (out, ), and a bias (out, )."""
    return {f'{name}.weight': axes, f'{name}.bias': axes[:1]}


def whole(value: float) -> int | None:
    """``value`` as an integer of at least 1, or None if it is none."""
    nearest = round(value)
    return nearest if nearest >= 1 and abs(value - nearest) < 1e-6 else None
