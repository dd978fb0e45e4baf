"""What slimmable networks share: slices of one network's weights in the modules of a smaller one."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from slimdiff.models.backbones.slimmable import flat_slicing
from slimdiff.models.backbones.slimmable.flat_slicing import FlatSlicer, Kinds
from slimdiff.models.backbones.slimmable.slicing import Slicer
from slimdiff.models.layers.channels import Axes
from slimdiff.sampling.actions import FULL, Run


class View:
    """The network of one run: modules of a dense network, and the slices of the wide weights that they run with.

    Args:
        wide: whose weights are cut.
        run: width and depth.
    """

    def __init__(self, wide: SlimmableNetwork, run: Run) -> None:
        with torch.device('meta'):
            network = wide.dense(run)
        if any(buffer.is_meta for buffer in network.buffers()):  # a resampler's filter: it needs its values
            network = wide.dense(run)
        names = wide.names_at(run)
        check_shapes(wide, names, network, run.width)
        self.network = network
        self.places = []  # (dict that a module keeps its parameter in, its name there, that of the weight, its slicer)
        for own, name in names.items():
            owner, _, key = own.rpartition('.')
            slots = network.get_submodule(owner)._parameters
            self.places.append((slots, key, name, Slicer(wide.get_parameter(name).shape, wide.axes[name], run.width)))
        self.empty = [slots[key] for slots, key, _, _ in self.places]
        # How many weights there are is a matter of their shapes, which are this view's. Their kinds may change between
        # two calls (moved, cast, replaced), so the slicer is kept together with those that it was made for.
        self.few = flat_slicing.is_small(wide.parameters())
        self.kinds: Kinds | None = None
        self.flat: FlatSlicer | None = None

    def fill(self, weights: dict[str, Tensor]) -> None:
        """Give the modules their slices, with gradients."""
        for (slots, key, _, _), cut in zip(self.places, self._slices(weights)):
            slots[key] = cut

    def _slices(self, weights: dict[str, Tensor]) -> list[Tensor]:
        flat = None if torch.compiler.is_compiling() or not self.few else self._flat_slicer(weights)
        return [slicer(weights[name]) for _, _, name, slicer in self.places] if flat is None else flat(weights)

    def _flat_slicer(self, weights: dict[str, Tensor]) -> FlatSlicer | None:
        weights = {name: weights[name] for _, _, name, _ in self.places}
        kinds = Kinds.of(weights.values())
        if kinds != self.kinds:
            slicers = {name: slicer for _, _, name, slicer in self.places}
            self.kinds = kinds
            self.flat = FlatSlicer(weights, slicers) if kinds.are_one else None
        return self.flat

    def clear(self) -> None:
        """Take the slices away: nothing of a step outlives it."""
        for (slots, key, _, _), empty in zip(self.places, self.empty):
            slots[key] = empty


class SlimmableNetwork(nn.Module):
    """A network that also runs smaller, with slices of its weights. A subclass is the dense network, too.

    It has the state dict of the dense network, so it starts from any checkpoint of it. At a width each layer uses the
    first channels of each part of its axes (:mod:`slimdiff.models.layers.channels`): a slim network is an ordinary,
    narrower one, see :meth:`extract`.
    """

    #: that a subclass is of, whose methods run at every size
    dense_class: type[nn.Module]
    #: the run of a call that does not say
    active = FULL

    def __getstate__(self) -> dict[str, Any]:
        # Views hold parts of a step's graph, which can't be copied; they are made again when they are needed.
        return {key: value for key, value in self.__dict__.items() if key not in ('_views', '_axes')}

    # ---- what a subclass says ----------------------------------------------------------------------------------

    @abstractmethod
    def dense(self, run: Run) -> nn.Module:
        """The dense network of ``run``, with weights of its own; blocks that do not run may be left out."""

    @abstractmethod
    def make_axes(self) -> dict[str, Axes]:
        """The channel axes of every parameter, by name."""

    def names_at(self, run: Run) -> Mapping[str, str]:
        """Names of :meth:`dense`'s parameters -> names of those that they are slices of."""
        return {name: name for name, _ in self.named_parameters()}

    @abstractmethod
    def check_run(self, run: Run) -> Run:
        """Raise ValueError unless the network was made for ``run``."""

    # ---- what every one does -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def at(self, width: float, depth: float = 1.0) -> Iterator[SlimmableNetwork]:
        """Run at ``width`` and ``depth`` inside the context, wherever a call does not say."""
        before, self.active = self.active, self.check_run(Run(width, depth))
        try:
            yield self
        finally:
            self.active = before

    @property
    def axes(self) -> dict[str, Axes]:
        """Channel axes of every parameter."""
        if '_axes' not in self.__dict__:
            self.__dict__['_axes'] = self.make_axes()
        return self.__dict__['_axes']

    def _view(self, run: Run) -> View:
        views = self.__dict__.setdefault('_views', {})
        if run not in views:
            views[run] = View(self, run)
        return views[run]

    def network_at(self, width: float, depth: float = 1.0) -> nn.Module:
        """The module that runs at ``width`` and ``depth``: hooks on its submodules see the features there.

        It has no weights between calls. Call the slimmable network, not this.
        """
        run = self.check_run(Run(width, depth))
        return self if run == FULL else self._view(run).network

    def forward(self, sample: Tensor, timestep: Tensor | float | int, class_labels: Tensor | None = None,
                encoder_hidden_states: Tensor | None = None, return_dict: bool = True,
                width: float | None = None) -> Any:
        """As of the dense network, at ``width``, or as set by :meth:`at`."""
        with contextlib.nullcontext() if width is None else self.at(width):
            return super().forward(sample, timestep, class_labels, encoder_hidden_states, return_dict)

    def with_features(self, *args: Any, **kwargs: Any) -> tuple[Any, Tensor]:
        """As of the dense network, at the active run."""
        return self._run_active(self.dense_class.with_features, *args, **kwargs)

    def shallow(self, *args: Any, **kwargs: Any) -> Any:
        """As of the dense network, at the active run, whose features it wants."""
        return self._run_active(self.dense_class.shallow, *args, **kwargs)

    def _run_active(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method of the dense class with the network of the active run."""
        if self.active == FULL:
            return method(self, *args, **kwargs)
        view = self._view(self.active)
        network = view.network.train(self.training)
        checkpoints = self.is_gradient_checkpointing
        if network.is_gradient_checkpointing != checkpoints:
            function = next((found for module in self.modules()
                             if (found := getattr(module, '_gradient_checkpointing_func', None))), None)
            network._set_gradient_checkpointing(checkpoints, function)
        for owner in network.modules():
            for key, buffer in owner._buffers.items():
                owner._buffers[key] = buffer.to(self.device)
        view.fill(dict(self.named_parameters()))
        try:
            return method(network, *args, **kwargs)
        finally:
            # A checkpointed block runs once more in the backward pass, with these slices.
            if not (checkpoints and torch.is_grad_enabled()):
                view.clear()

    @torch.no_grad()
    def extract(self, width: float, depth: float = 1.0) -> nn.Module:
        """The dense network of ``width`` and ``depth``, with copies of its weights, in their precision and place."""
        view = View(self, self.check_run(Run(width, depth)))
        weights = dict(self.named_parameters())
        for slots, key, name, slicer in view.places:
            weight = slicer.cut(weights[name]).clone()
            if weight.dim() == 4:
                weight = weight.contiguous(memory_format=torch.channels_last)
            slots[key] = nn.Parameter(weight, weights[name].requires_grad)
        return view.network.to(self.device).train(self.training)


def check_shapes(wide: SlimmableNetwork, names: Mapping[str, str], slim: nn.Module, width: float) -> None:
    """Raise ValueError unless the slices of ``wide`` have the shapes of ``slim``'s parameters."""
    shapes = {names[own]: tuple(parameter.shape) for own, parameter in slim.named_parameters()}
    for name in names.values():
        parameter = wide.get_parameter(name)
        cut = Slicer(parameter.shape, wide.axes[name], width).shape
        if cut != shapes.get(name):
            owner = wide.get_submodule(name.rpartition('.')[0])
            raise ValueError(f'{name}: the slice at width {width:g} is {cut}, a network of that width has '
                             f'{shapes.get(name)}. The class of that module ({type(owner).__name__}, or the resampler '
                             'around it) needs a method channel_axes(stream), as slimdiff/models/resamplers/shuffle.py '
                             'has it.')
