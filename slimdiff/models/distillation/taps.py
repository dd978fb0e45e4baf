"""Taps: names for places in a network, and a recorder of what passes there."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn

from slimdiff.models.backbones.adapt import as_tensor
from slimdiff.models.backbones.blocks import BLOCK_LISTS, image_tokens
from slimdiff.models.backbones.protocol import bare
from slimdiff.spelling import nearest

#: the tap that is not a module: the network's prediction, in the student's prediction type.
OUTPUT = 'output'


def diffusers_alias(network: nn.Module, name: str) -> str:
    """The module of diffusers' UNets that the papers' ``down2``, ``mid`` or ``up1`` stands for; else ``name``.

    diffusers counts up-blocks from the lowest resolution, the papers stages from the highest.
    """
    if not (hasattr(network, 'down_blocks') and hasattr(network, 'up_blocks')):
        return name
    match = re.fullmatch(r'(down|up)(\d+)', name)
    if match:
        kind, number = match[1], int(match[2])
        count = len(getattr(network, f'{kind}_blocks'))
        return f'{kind}_blocks.{number - 1 if kind == "down" else count - number}'
    return 'mid_block' if name == 'mid' else name


def tap_names(network: nn.Module) -> list[str]:
    """The taps that a reader looks for first: ``output`` and the stages."""
    network = bare(network)
    top = [name for name, child in network.named_children() if re.fullmatch(r'(down|up)\d+|mid|mid_block', name)]
    for blocks in ('down_blocks', 'up_blocks', *BLOCK_LISTS):
        top += [f'{blocks}.{i}' for i in range(len(getattr(network, blocks, ())))]
    return [OUTPUT, *top]


def find_tap(network: nn.Module, name: str, whose: str = 'network') -> str:
    """The module path that tap ``name`` means in ``network``.

    Raises:
        ValueError: there is no such module; names the nearest, then the stages.
    """
    network = bare(network)
    path = diffusers_alias(network, name)
    modules = dict(network.named_modules())
    if path in modules and path:
        return path
    stages = tap_names(network)
    close = nearest(name, [*stages, *(m for m in modules if m)])
    hint = f'Did you mean {" or ".join(repr(c) for c in close[:3])}? ' if close else ''
    raise ValueError(f"The {whose} has no tap '{name}'. {hint}Its stages: {', '.join(stages)}; any module path is a "
                     'tap, too (list them with named_modules()).')


def as_map(features: Tensor, proportions: float = 1.0) -> Tensor:
    """Tokens (N, T, D) of a transformer's block as the map (N, D, h, w) of their patches; other features unchanged.

    Args:
        proportions: height by width of the network's input.
    """
    if features.dim() != 3:
        return features
    count = features.shape[1]
    height = round(math.sqrt(count * proportions))
    width = count // max(height, 1)
    if height * width != count or height != round(width * proportions):
        raise ValueError(f'A tap gives {count} tokens, which do not form a map of patches with the proportions of the '
                         'input: tap a block that has the image tokens alone.')
    return features.transpose(1, 2).unflatten(2, (height, width))


class TapRecorder:
    """Records the outputs of some modules while used as a context manager.

    ::

        recorder = TapRecorder(unet, ['up1', 'mid'])
        with recorder:
            unet(x, t)
        recorder.features['up1']

    The hooks stay on the modules, but keep nothing outside of the context: sampling holds no features back.

    Args:
        network: any module.
        paths: module paths.
    """

    def __init__(self, network: nn.Module, paths: Iterable[str]) -> None:
        self.features: dict[str, Tensor] = {}
        self.active = False
        size = getattr(getattr(network, 'config', network), 'sample_size', None)
        self.proportions = size[0] / size[1] if isinstance(size, (list, tuple)) else 1.0
        modules = dict(network.named_modules())
        # partial, not a closure: a deep copy of the network then records into the recorder's copy.
        self.handles = [modules[path].register_forward_hook(partial(self._record, path))
                        for path in dict.fromkeys(paths)]

    def _record(self, path: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.active:
            self.features[path] = as_map(as_tensor(image_tokens(module, output), f'tap {path}'),
                                         self.proportions)

    def __enter__(self) -> TapRecorder:
        self.features.clear()
        self.active = True
        return self

    def __exit__(self, *exc: Any) -> None:
        self.active = False

    def take(self) -> dict[str, Tensor]:
        """The recorded features, which the recorder lets go of."""
        features, self.features = self.features, {}
        return features

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self.handles:
            handle.remove()
