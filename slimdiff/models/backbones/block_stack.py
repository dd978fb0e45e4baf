"""Depths and reusable features of a diffusers transformer, which is a stack of blocks, without a line of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimdiff.arguments import declared_arguments
from slimdiff.models.backbones.block_features import RESIDUAL, BlockFeatures
from slimdiff.models.backbones.blocks import BLOCK_LISTS, block_lists, block_ranges
from slimdiff.sampling.actions import Run

#: list of blocks -> the argument that says how many there are
COUNTS = {'transformer_blocks': 'num_layers', 'single_transformer_blocks': 'num_single_layers',
          'layers': 'num_layers', 'blocks': 'num_layers'}
#: arguments that name blocks by their number
INDICES = ('dual_attention_layers', )


def kept(total: int, depth: float) -> list[int]:
    """The blocks of a list that run at a depth: evenly spread, the first and the last among them.

    Of one block it is the last: the last block of SD3 has another shape than those before it.
    """
    count = max(1, round(depth * total))
    return [total - 1] if count == 1 else [round(i * (total - 1) / (count - 1)) for i in range(count)]


class BlockStack:
    """What :class:`~slimdiff.models.backbones.protocol.SlimmableDepth` and
    :class:`~slimdiff.models.backbones.protocol.ReusableFeatures` want, of a network with lists of known blocks.

    At a depth of 0.5 half of the blocks of each list run, evenly spread. The shallow part is the first block; deep
    features are what all others add to the streams of tokens (first-block caches reuse the same).

    Args:
        network: one with lists of blocks that diffusers or :mod:`slimdiff.models.backbones.blocks` knows.
        depths: shares of the blocks that it is trained at, 1 among them; none by default.
    """

    widths = (1.0, )

    def __init__(self, network: nn.Module, depths: Sequence[float] = ()) -> None:
        self.network = network
        known = block_lists(network)
        self.names = [name for name in BLOCK_LISTS
                      if any(getattr(network, name, None) is blocks for blocks in known)]
        self.depths = tuple(sorted(Run(1.0, depth).depth for depth in depths))

    @classmethod
    def of(cls, network: nn.Module, depths: Sequence[float] | None = None) -> BlockStack | None:
        """None for a network of another kind, one of a single block, or one that says itself what it offers.

        Raises:
            ValueError: ``depths`` of such a network, without 1, or two that run the same blocks.
        """
        offers_it = any(hasattr(network, name) for name in ('widths', 'with_features'))
        if hasattr(network, 'depths') or 'depths' in declared_arguments(type(network))[0]:
            depths = None  # the network's own, whatever it means by them
        stack = cls(network, depths or ())
        if offers_it or sum(stack.sizes.values()) < 2 or not hasattr(network, 'from_config'):
            if depths:
                raise ValueError(f'unet.depths={list(depths)}: {type(network).__name__} has no list of two or more '
                                 'blocks that slimdiff knows. Leave depths out.')
            return None
        counts = {sum(len(kept(size, depth)) for size in stack.sizes.values()) for depth in stack.depths}
        if stack.depths and (stack.depths[-1] != 1 or len(counts) < len(stack.depths)):
            raise ValueError(f'unet.depths={list(depths)}: they must be other numbers of blocks of '
                             f'{type(network).__name__} ({stack.sizes}), and 1.0 among them.')
        return stack

    @property
    def offered(self) -> tuple[str, ...]:
        """The members of protocols that it answers."""
        return ('with_features', 'shallow', *(('widths', 'depths', 'at', 'extract') if self.depths else ()))

    @property
    def sizes(self) -> dict[str, int]:
        return {name: len(getattr(self.network, name)) for name in self.names}

    @contextlib.contextmanager
    def at(self, width: float, depth: float = 1.0) -> Iterator[nn.Module]:
        """Within this context the network has the blocks of ``depth`` alone."""
        whole = {name: getattr(self.network, name) for name in self.names}
        try:
            for name, blocks in whole.items():
                self.network._modules[name] = nn.ModuleList(blocks[i] for i in kept(len(blocks), depth))
            yield self.network
        finally:
            self.network._modules.update(whole)

    @torch.no_grad()
    def extract(self, width: float, depth: float = 1.0) -> nn.Module:
        """The network of ``depth`` alone, with copies of its weights.

        Raises:
            ValueError: a network whose blocks are not made alike from its config.
        """
        network, config = self.network, {k: v for k, v in self.network.config.items() if not k.startswith('_')}
        places = {name: kept(size, depth) for name, size in self.sizes.items()}
        for name, indices in places.items():
            config[COUNTS[name]] = len(indices)
        for key in INDICES:
            if config.get(key):
                config[key] = tuple(new for new, old in enumerate(places[self.names[0]]) if old in config[key])
        state = {}
        for key, value in network.state_dict().items():
            name, _, rest = key.partition('.')
            number, _, rest = rest.partition('.')
            if name not in places:
                state[key] = value
            elif int(number) in places[name]:
                state[f'{name}.{places[name].index(int(number))}.{rest}'] = value
        slim = type(network).from_config(config)
        try:  # assigned: in their precision and place
            slim.load_state_dict({name: value.clone() for name, value in state.items()}, assign=True)
        except RuntimeError as error:
            raise ValueError(f'{type(network).__name__} at depth {depth:g} is not what its config makes of '
                             f'{", ".join(f"{COUNTS[n]}={len(i)}" for n, i in places.items())}: {error}') from error
        return slim.train(network.training).requires_grad_(next(network.parameters()).requires_grad)

    def with_features(self, forward: Callable[[], Any]) -> tuple[Any, Tensor]:
        """The output of ``forward``, a call of the network, and its deep features (N, elements)."""
        with self._rerouted() as blocks:
            cache: dict[str, Tensor] = {}
            output = blocks.store(forward, (), {}, cache)
        return output, cache[RESIDUAL]

    def shallow(self, forward: Callable[[], Any], features: Tensor) -> Any:
        """The output of ``forward`` with the first block run, and ``features`` added in place of all others."""
        with self._rerouted() as blocks:
            return blocks.reuse(forward, (), {}, {RESIDUAL: features})

    @contextlib.contextmanager
    def _rerouted(self) -> Iterator[BlockFeatures]:
        # For one call: what stays on the modules would be copied with them, and call the wrong ones.
        blocks = BlockFeatures(block_ranges(self.network, front=1))
        undo = blocks.install()
        try:
            yield blocks
        finally:
            for restore in undo:
                restore()
