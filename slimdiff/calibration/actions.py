"""What may happen at a denoising step in place of the full network, for any denoiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from slimdiff.calibration.features import Features, OwnFeatures, UNetFeatures, is_unet
from slimdiff.models.backbones.adapt import as_tensor
from slimdiff.models.backbones.block_features import BlockFeatures
from slimdiff.models.backbones.blocks import block_lists, block_ranges
from slimdiff.models.backbones.protocol import ReusableFeatures, input_dtype, network_of, offers, runs_of
from slimdiff.sampling.actions import Run
from slimdiff.spelling import did_you_mean

PREDICTION, FEATURES = 'prediction', 'features'
#: in the memory of a call: the time of the last prediction; time and output of the one before
TIME, EARLIER = 'time', 'earlier'


@dataclass
class Call:
    """One call of the denoiser.

    Args:
        forward: the denoiser as it was.
        args, kwargs: of the call.
        memory: what earlier steps have left for this call: ``'prediction'``, an output, and a cache of each
            :class:`~slimdiff.calibration.features.Features`.
        images: size of the batch of images, where it is known; guidance may double that of the call.
        part: which call of its step it is: some pipelines call once for each half of guidance.
        time: of the step, as the scheduler has it.
    """
    forward: Callable[..., Any]
    args: tuple
    kwargs: dict[str, Any]
    memory: dict[Any, Any] = field(default_factory=dict)
    images: int | None = None
    part: int = 0
    time: float = 0.0

    @property
    def sample(self) -> Tensor:
        return next(value for value in (*self.args, *self.kwargs.values())
                    if isinstance(value, Tensor) and value.dim() > 1)

    @property
    def batch(self) -> int:
        return len(self.sample)

    @property
    def guided(self) -> bool:
        """Whether the batch holds two halves, unconditional and conditional."""
        return self.images is not None and self.batch == 2 * self.images


class Action(Protocol):
    """One way to answer a call of the denoiser."""

    #: what it is called in files and on the command line
    name: str
    #: the memory whose age matters to it, ``'prediction'`` or ``'features'``; None if it needs none
    needs: str | None
    #: the memories that are fresh after it
    fills: frozenset[str]
    #: whether it also reads the prediction before the last
    reads_earlier: bool

    def parts(self) -> list[Features]:
        """The parts of the denoiser that must be prepared for it."""

    def fits(self, call: Call) -> bool:
        """Whether it can answer; the full network does if not."""

    def run(self, call: Call) -> Any:
        """The answer, in the form in which the denoiser gives it."""


class Base:
    """The common case: no memory is needed, and the prediction is the only one that it leaves."""

    needs: str | None = None
    fills = frozenset({PREDICTION})
    reads_earlier = False

    def __init__(self, name: str) -> None:
        self.name = name

    def parts(self) -> list[Features]:
        return []

    def fits(self, call: Call) -> bool:
        return True


class Full(Base):
    """The denoiser as it was; it also leaves what the parts in ``stored`` keep."""

    fills = frozenset({PREDICTION, FEATURES})

    def __init__(self, stored: list[Features] | tuple[Features, ...] = ()) -> None:
        super().__init__('full')
        self.stored = list(stored)

    def run(self, call: Call) -> Any:
        forward = call.forward
        for part in self.stored:
            forward = _storing(part, forward, call.memory.setdefault(part, {}))
        return forward(*call.args, **call.kwargs)


def _storing(part: Features, forward: Callable[..., Any], cache: dict) -> Callable[..., Any]:
    cache.clear()
    return lambda *args, **kwargs: part.store(forward, args, kwargs, cache)


class ReusePrediction(Base):
    """The output of the step before: nothing runs."""

    needs = PREDICTION
    fills = frozenset()

    def fits(self, call: Call) -> bool:
        return PREDICTION in call.memory

    def run(self, call: Call) -> Any:
        return cloned(call.memory[PREDICTION])


class Extrapolate(Base):
    """The line through the last two predictions: nothing runs (TaylorSeer of first order, Liu et al. 2025)."""

    needs = PREDICTION
    fills = frozenset()
    reads_earlier = True

    def fits(self, call: Call) -> bool:
        return EARLIER in call.memory

    def run(self, call: Call) -> Any:
        last, time = call.memory[PREDICTION], call.memory[TIME]
        before, earlier = call.memory[EARLIER]
        slope = (call.time - time) / (time - before)
        return rebuilt(last, torch.lerp(tensor_of(earlier), tensor_of(last), 1 + slope))


def remember(call: Call, output: Any) -> None:
    """Keep a prediction in the memory of its call, and the one before."""
    if TIME in call.memory and call.memory[TIME] != call.time:
        call.memory[EARLIER] = call.memory[TIME], call.memory[PREDICTION]
    call.memory |= {PREDICTION: cloned(output), TIME: call.time}


class ReuseFeatures(Base):
    """The shallow part of the denoiser around the features of the last full step."""

    needs = FEATURES

    def __init__(self, name: str, part: Features) -> None:
        super().__init__(name)
        self.part = part

    def parts(self) -> list[Features]:
        return [self.part]

    def fits(self, call: Call) -> bool:
        return bool(call.memory.get(self.part))

    def run(self, call: Call) -> Any:
        return self.part.reuse(call.forward, call.args, call.kwargs, call.memory[self.part])


class SkipBlocks(Base):
    """A range of transformer blocks passes its input on. Its prediction is not remembered, see :class:`Unguided`."""

    fills = frozenset()

    def __init__(self, name: str, part: BlockFeatures) -> None:
        super().__init__(name)
        self.part = part

    def parts(self) -> list[Features]:
        return [self.part]

    def run(self, call: Call) -> Any:
        return self.part.reuse(call.forward, call.args, call.kwargs, {})


class Unguided(Base):
    """Guidance switched off for a step: the conditional half runs, and its answer stands for both.

    It takes the batch to be [unconditional, conditional], as pipelines of diffusers build it. Its prediction is not
    remembered: beside guided ones it makes a wrong line, and an older guided one is nearer to what is wanted.
    """

    fills = frozenset()

    def fits(self, call: Call) -> bool:
        return call.guided

    def run(self, call: Call) -> Any:
        output = call.forward(*_half(call.args, call.batch), **_half(call.kwargs, call.batch))
        tensor = tensor_of(output)
        return rebuilt(output, torch.cat([tensor, tensor]))


class OtherNetwork(Base):
    """Another network for a step: a smaller model (T-Stitch, Pan et al. 2024), or the same one at a narrower width.

    Its prediction is not remembered, see :class:`Unguided`.
    """

    fills = frozenset()

    def __init__(self, name: str, network: nn.Module) -> None:
        super().__init__(name)
        self.network = network

    def run(self, call: Call) -> Any:
        sample = call.sample  # the pipeline may have been moved; diffusers' own `to` warns of casts
        if next(self.network.parameters()).device != sample.device:
            nn.Module.to(self.network, sample.device)
        if input_dtype(self.network) != sample.dtype:
            nn.Module.to(self.network, sample.dtype)
        return self.network(*call.args, **call.kwargs)


# ---- tensors in any form ------------------------------------------------------------------------------------------


def _half(value: Any, batch: int) -> Any:
    """The second half of what has the batch's length, in containers too."""
    if isinstance(value, Tensor):
        return value[batch // 2:] if value.dim() and len(value) == batch else value
    if isinstance(value, Mapping):
        return {key: _half(item, batch) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_half(item, batch) for item in value)
    return value


def tensor_of(output: Any) -> Tensor:
    return as_tensor(output, 'the denoiser')


def rebuilt(output: Any, tensor: Tensor) -> Any:
    """``output`` with another tensor."""
    if isinstance(output, Tensor):
        return tensor
    if isinstance(output, tuple):
        return (tensor, *output[1:])
    return type(output)(sample=tensor)


def cloned(output: Any) -> Any:
    """A copy: some pipelines write into what they are given."""
    return rebuilt(output, tensor_of(output).clone())


# ---- which there are ----------------------------------------------------------------------------------------------


def offered(denoiser: nn.Module, also: bool = False) -> list[str]:
    """The names of the actions that ``denoiser`` can take beside the full network.

    ``unguided`` is among them always: whether there is guidance is a matter of the call.
    """
    names = [PREDICTION, 'extrapolate']
    blocks = sum(map(len, block_lists(denoiser)))
    if offers(denoiser, ReusableFeatures):
        names.append('features')
    elif is_unet(denoiser):
        names += [f'features:{levels}' for levels in range(1, min(3, len(denoiser.up_blocks)))]
    elif blocks > 1:
        names += [f'blocks:{front}' for front in dict.fromkeys((1, blocks // 2))]
        if blocks > 2:
            names.append(f'skip:{blocks // 3}-{2 * blocks // 3}')
    names.append('unguided')
    names += [f'width:{run.size}' for run in runs_of(denoiser)[:-1]]
    return names + ['also'] * also


def build(name: str, denoiser: nn.Module, also: nn.Module | None = None) -> Action:
    """The action of a name, as :func:`offered` gives them.

    Raises:
        ValueError: an unknown name, or one that this denoiser can't take.
    """
    kind, _, value = name.partition(':')
    try:
        if name == PREDICTION:
            return ReusePrediction(name)
        if name == 'extrapolate':
            return Extrapolate(name)
        if name == 'unguided':
            return Unguided(name)
        if name == 'also' and also is not None:
            return OtherNetwork(name, also)
        if name == 'features' and offers(denoiser, ReusableFeatures):
            return ReuseFeatures(name, OwnFeatures(denoiser))
        if kind == 'features' and is_unet(denoiser) and 0 < int(value) < len(denoiser.up_blocks):
            return ReuseFeatures(name, UNetFeatures(denoiser, int(value)))
        if kind == 'width':
            return OtherNetwork(name, network_of(denoiser, Run.parse(value, runs_of(denoiser))))
        if kind == 'blocks' and int(value) > 0 and (ranges := block_ranges(denoiser, int(value))):
            return ReuseFeatures(name, BlockFeatures(ranges))
        if kind == 'skip':
            start, stop = map(int, value.split('-'))
            total = sum(map(len, block_lists(denoiser)))
            if 0 <= start < stop <= total:
                return SkipBlocks(name, BlockFeatures(block_ranges(denoiser, start, total - stop), kept=False))
    except ValueError:
        pass
    known = offered(denoiser, also is not None)
    why = ' It needs --also, or also=... of slimdiff.apply.' if name == 'also' else ''
    raise ValueError(f"{type(denoiser).__name__} can't take the action '{name}'.{why}{did_you_mean(name, known)} It "
                     f'can take full, {", ".join(known)}.')
