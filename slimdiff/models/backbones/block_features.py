"""What a range of transformer blocks adds to its input, kept from one call to another, or left out."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimdiff.models.backbones.blocks import streams_of
from slimdiff.models.backbones.reroute import reroute

#: of a cache: what the blocks have added, as one tensor (N, elements of all streams of all ranges)
RESIDUAL = 'residual'


class Patched(threading.local):
    """Features of a network whose blocks are rerouted: ``mode`` and ``cache`` say what they do in this call.

    To another thread the network is what it was: all attributes are a thread's own, made by ``__init__`` again.
    """

    def __init__(self) -> None:
        self.mode: str | None = None
        self.cache: dict = {}

    def store(self, forward: Callable[..., Any], args: tuple, kwargs: dict, cache: dict) -> Any:
        return self._run('store', forward, args, kwargs, cache)

    def reuse(self, forward: Callable[..., Any], args: tuple, kwargs: dict, cache: dict) -> Any:
        return self._run('reuse', forward, args, kwargs, cache)

    def _run(self, mode: str, forward: Callable[..., Any], args: tuple, kwargs: dict, cache: dict) -> Any:
        self.mode, self.cache = mode, cache
        try:
            return forward(*args, **kwargs)
        finally:
            self.mode, self.cache = None, {}


class BlockFeatures(Patched):
    """What all transformer blocks but the first ``front`` add to their input, list by list.

    As first-block caches have it: the first blocks run and see the new image, the others' sum of residuals is an older
    one. With ``kept=False`` the residual is zero: the blocks are skipped, and nothing need be stored.

    Args:
        ranges: (blocks of a list, first, one after the last) of each list that has some to reuse.
        kept: reuse residuals; or skip the blocks.
    """

    def __init__(self, ranges: Sequence[tuple[Sequence[nn.Module], int, int]], kept: bool = True) -> None:
        super().__init__()
        self.ranges, self.kept = ranges, kept
        self._inputs: list[Tensor] = []
        self._found: list[Tensor] = []
        self._rest: Tensor | None = None

    def install(self) -> list[Callable[[], None]]:
        return [reroute(blocks[i], self._around(i == start, i == stop - 1, blocks[i]))
                for blocks, start, stop in self.ranges for i in range(start, stop)]

    def store(self, forward: Callable[..., Any], args: tuple, kwargs: dict, cache: dict) -> Any:
        self._found = []
        output = super().store(forward, args, kwargs, cache)
        if self._found:  # nothing where the network left out the first or the last of the blocks (skip_layers of SD3)
            cache[RESIDUAL] = torch.cat(self._found, dim=1)
        self._inputs, self._found = [], []
        return output

    def reuse(self, forward: Callable[..., Any], args: tuple, kwargs: dict, cache: dict) -> Any:
        self._rest = cache.get(RESIDUAL)
        try:
            return super().reuse(forward, args, kwargs, cache)
        finally:
            self._rest, self._inputs = None, []

    def _around(self, first: bool, last: bool, block: nn.Module) -> Callable[..., Any]:
        streams, names = streams_of(block), list(inspect.signature(type(block).forward).parameters)[1:]
        places = [place for _, place in streams]

        def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if self.mode is None:
                return original(*args, **kwargs)
            inputs = [kwargs[key] if key in kwargs else args[names.index(key)] for key, _ in streams]
            if first:
                self._inputs = inputs
            if self.mode == 'reuse':
                # Of a ControlNet's residuals, which the network adds between blocks, those in the kept ones count.
                return _in_place([old + self._take(old) for old in self._inputs] if last and self.kept else inputs,
                                 places)
            output = original(*args, **kwargs)
            if last:
                # A stream that the last block ends has nothing that anybody reads.
                self._found += [torch.zeros_like(old).flatten(1) if new is None else (new - old).flatten(1)
                                for new, old in zip([output if place is None else output[place] for place in places],
                                                    self._inputs)]
            return output

        return around

    def _take(self, stream: Tensor) -> Tensor:
        """What was added to a stream of this shape: the next part of the residual."""
        size = stream[0].numel()
        part, self._rest = self._rest[:, :size], self._rest[:, size:]
        return part.reshape(stream.shape)


def _in_place(values: list, places: list[int | None]) -> Any:
    if places == [None]:
        return values[0]
    found: list = [None] * len(places)
    for value, place in zip(values, places):
        found[place] = value
    return tuple(found)
