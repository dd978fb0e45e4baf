"""What of a denoiser can be kept from one step to the next, and how the rest runs around it.

Three kinds of networks, one protocol (:class:`Features`): those that offer it themselves
(:class:`~slimdiff.models.backbones.protocol.ReusableFeatures`), UNets of diffusers, and lists of transformer blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

from slimdiff.models.backbones.block_features import Patched
from slimdiff.models.backbones.reroute import reroute


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
        args, kwargs = self._brought(args, kwargs)
        output, cache['deep'] = self.network.with_features(*args, **self._conditions(kwargs))
        return self._as_asked(output, kwargs)

    def reuse(self, forward: Callable[..., Any], args: tuple, kwargs: dict, cache: dict) -> Any:
        args, kwargs = self._brought(args, kwargs)
        given = dict(zip(('sample', 'timestep', 'class_labels', 'encoder_hidden_states'), args)) | kwargs
        return self._as_asked(self.network.shallow(given['sample'], given['timestep'], given.get('class_labels'),
                                                   given.get('encoder_hidden_states'), cache['deep']), kwargs)

    def _brought(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """The arguments, once the weights are there: accelerate's offloading waits for a call of ``forward``."""
        hook = getattr(self.network, '_hf_hook', None)
        return (args, kwargs) if hook is None else hook.pre_forward(self.network, *args, **kwargs)

    @staticmethod
    def _conditions(kwargs: dict) -> dict:
        return {key: value for key, value in kwargs.items() if key != 'return_dict'}

    @staticmethod
    def _as_asked(output: Any, kwargs: dict) -> Any:
        return output if kwargs.get('return_dict', True) else (getattr(output, 'sample', output), )


class UNetFeatures(Patched):
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
                # Nobody will read them; of the right shapes, since ControlNets and adapters add to them.
                hidden, *skips = self.cache[name]
                zero = _hidden(args, kwargs).new_zeros(())
                return zero.new_zeros(hidden), tuple(zero.expand(shape) for shape in skips)
            output = original(*args, **kwargs)
            if self.mode == 'store':
                self.cache[name] = [value.shape for value in (output[0], *output[1])]
            return output

        return around

    def _pass(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return _hidden(args, kwargs) if self.mode == 'reuse' else original(*args, **kwargs)

    def _deep(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.mode == 'reuse':
            return self.cache['deep'].clone()
        output = original(*args, **kwargs)
        if self.mode == 'store':
            self.cache['deep'] = output.clone()  # FreeU writes into what the next block gets
        return output


def _hidden(args: tuple, kwargs: dict) -> Tensor:
    return kwargs['hidden_states'] if 'hidden_states' in kwargs else args[0]


def is_unet(network: nn.Module) -> bool:
    """Whether a network has the down- and up-blocks of diffusers' UNets, as :class:`UNetFeatures` needs them."""
    down, up = (getattr(network, name, None) for name in ('down_blocks', 'up_blocks'))
    return (isinstance(down, nn.ModuleList) and isinstance(up, nn.ModuleList) and len(down) == len(up) > 1
            and not any(hasattr(block, 'skip_conv') for block in (*down, *up)))
