"""What of a denoiser can be kept from one step to the next, and how the rest runs around it.

Three kinds of networks, one protocol (:class:`Features`): those that offer it themselves
(:class:`~slimdiff.models.backbones.protocol.ReusableFeatures`), UNets of diffusers, and lists of transformer blocks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from slimdiff.calibration.reroute import reroute
from slimdiff.models.backbones.blocks import streams_of
from slimdiff.models.backbones.protocol import ReusableFeatures, offers


class Features(Protocol):
    """A part of a network whose results a later call may take for its own."""

    def install(self) -> list[Callable[[], None]]:
        """Prepare the network; returns what undoes it."""

    def store(self, forward: Callable[..., Any], args: tuple, kwargs: dict, cache: dict) -> Any:
        """The network's output; its features go into ``cache``."""

    def reuse(self, forward: Callable[..., Any], args: tuple, kwargs: dict, cache: dict) -> Any:
        """The output around the features in ``cache``."""


class OwnFeatures:
    """Those of a network with ``with_features`` and ``shallow``, such as :class:`slimdiff.UNet`."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def install(self) -> list[Callable[[], None]]:
        return []

    def store(self, forward: Callable[..., Any], args: tuple, kwargs: dict, cache: dict) -> Any:
        output, cache['deep'] = self.network.with_features(*args, **self._conditions(kwargs))
        return self._as_asked(output, kwargs)

    def reuse(self, forward: Callable[..., Any], args: tuple, kwargs: dict, cache: dict) -> Any:
        given = dict(zip(('sample', 'timestep', 'class_labels', 'encoder_hidden_states'), args)) | kwargs
        return self._as_asked(self.network.shallow(given['sample'], given['timestep'], given.get('class_labels'),
                                                   given.get('encoder_hidden_states'), cache['deep']), kwargs)

    @staticmethod
    def _conditions(kwargs: dict) -> dict:
        return {key: value for key, value in kwargs.items() if key != 'return_dict'}

    @staticmethod
    def _as_asked(output: Any, kwargs: dict) -> Any:
        return output if kwargs.get('return_dict', True) else (getattr(output, 'sample', output), )


class _Patched:
    """Features of a network whose blocks are rerouted: ``mode`` and ``cache`` say what they do in this call."""

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


class UNetFeatures(_Patched):
    """What enters the last ``levels`` up-blocks of a UNet of diffusers (DeepCache, Ma et al., CVPR 2024).

    Around it run the stem, the first ``levels`` down-blocks and the last ``levels`` up-blocks.
    """

    def __init__(self, network: nn.Module, levels: int = 1) -> None:
        super().__init__()
        self.network, self.levels = network, levels

    def install(self) -> list[Callable[[], None]]:
        down, up = self.network.down_blocks, self.network.up_blocks
        *passing, last = up[:-self.levels]
        undo = [reroute(block, self._down(f'down{i}')) for i, block in enumerate(down) if i >= self.levels]
        undo += [reroute(block, self._pass) for block in (self.network.mid_block, *passing) if block is not None]
        return [*undo, reroute(last, self._deep)]

    def _down(self, name: str) -> Callable[..., Any]:

        def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if self.mode == 'reuse':
                hidden = _hidden(args, kwargs)
                # Skips that nobody will read; of the right shapes, since a ControlNet adds to them.
                return hidden, tuple(hidden.new_zeros(()).expand(shape) for shape in self.cache[name])
            output = original(*args, **kwargs)
            if self.mode == 'store':
                self.cache[name] = [tuple(skip.shape) for skip in output[1]]
            return output

        return around

    def _pass(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return _hidden(args, kwargs) if self.mode == 'reuse' else original(*args, **kwargs)

    def _deep(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.mode == 'reuse':
            return self.cache['deep']
        output = original(*args, **kwargs)
        if self.mode == 'store':
            self.cache['deep'] = output
        return output


class BlockFeatures(_Patched):
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

    def install(self) -> list[Callable[[], None]]:
        return [reroute(blocks[i], self._around(f'list{number}', i == start, i == stop - 1, blocks[i]))
                for number, (blocks, start, stop) in enumerate(self.ranges) for i in range(start, stop)]

    def _around(self, name: str, first: bool, last: bool, block: nn.Module) -> Callable[..., Any]:
        streams, names = streams_of(block), list(inspect.signature(type(block).forward).parameters)[1:]

        def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if self.mode is None:
                return original(*args, **kwargs)
            inputs = [kwargs[key] if key in kwargs else args[names.index(key)] for key, _ in streams]
            if self.mode == 'reuse':
                outputs = inputs
                if last and self.kept:
                    outputs = [old if residual is None else old + residual
                               for old, residual in zip(inputs, self.cache[name, 'residual'])]
                return _in_place(outputs, [place for _, place in streams])
            if first:
                self.cache[name, 'input'] = inputs
            output = original(*args, **kwargs)
            if last:
                found = [output if place is None else output[place] for _, place in streams]
                self.cache[name, 'residual'] = [None if new is None else new - old
                                                for new, old in zip(found, self.cache.pop((name, 'input')))]
            return output

        return around


def _hidden(args: tuple, kwargs: dict) -> Tensor:
    return kwargs['hidden_states'] if 'hidden_states' in kwargs else args[0]


def _in_place(values: list, places: list[int | None]) -> Any:
    if places == [None]:
        return values[0]
    found: list = [None] * len(places)
    for value, place in zip(values, places):
        found[place] = value
    return tuple(found)


def is_unet(network: nn.Module) -> bool:
    """Whether a network has the down- and up-blocks of diffusers' UNets, as :class:`UNetFeatures` needs them."""
    down, up = (getattr(network, name, None) for name in ('down_blocks', 'up_blocks'))
    return (isinstance(down, nn.ModuleList) and isinstance(up, nn.ModuleList) and len(down) == len(up) > 1
            and not any(hasattr(block, 'skip_conv') for block in (*down, *up)))


def has_own_features(network: nn.Module) -> bool:
    return offers(network, ReusableFeatures)
