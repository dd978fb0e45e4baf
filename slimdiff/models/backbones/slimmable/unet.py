"""A UNet that runs at several widths with one set of weights."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimdiff.models.backbones.adapt import Prediction
from slimdiff.models.backbones.slimmable import flat_slicing
from slimdiff.models.backbones.slimmable.axes import check_shapes, feature_maps, unet_axes
from slimdiff.models.backbones.slimmable.config import check_widths, slim_config
from slimdiff.models.backbones.slimmable.flat_slicing import FlatSlicer, Kinds
from slimdiff.models.backbones.slimmable.slicing import Slicer
from slimdiff.models.backbones.unet import UNet
from slimdiff.models.backbones.unet.stages import Stage
from slimdiff.models.layers.channels import Axes, Channels
from slimdiff.registry import MODELS


class View:
    """The network of one width: modules of a dense UNet, and the slices of the wide weights that they run with.

    Args:
        wide: whose weights are cut.
        axes: of its parameters.
        width: in (0, 1].
    """

    def __init__(self, wide: SlimmableUNet, axes: dict[str, Axes], width: float) -> None:
        with torch.device('meta'):
            network = UNet(**slim_config(wide.config, width, wide.widths))
        if any(True for _ in network.buffers()):  # a resampler's filter: it needs its values
            network = UNet(**slim_config(wide.config, width, wide.widths))
        check_shapes(axes, wide, network, width)
        self.network = network
        self.places = []  # (dict that a module keeps its parameter in, its name there, that of the weight, its slicer)
        for name, parameter in wide.named_parameters():
            owner, _, key = name.rpartition('.')
            slots = network.get_submodule(owner)._parameters
            self.places.append((slots, key, name, Slicer(parameter.shape, axes[name], width)))
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


@MODELS.register_module()
class SlimmableUNet(UNet):
    """A :class:`~slimdiff.UNet` that also runs at smaller widths, with slices of its weights.

    The supernet of DDSM (Yang et al., ICLR 2024), for every UNet that the config describes. It has the state dict of
    the dense network, so it starts from any checkpoint of it. At a width each layer uses the first channels of each
    part of its axes (:mod:`slimdiff.models.layers.channels`): a slim network is an ordinary, narrower UNet, see
    :meth:`extract`.

    Args:
        widths: shares of the channels, 1.0 among them.
        **unet: arguments of :class:`~slimdiff.UNet`.

    Raises:
        ValueError: a width that channels, norm groups or bands have no whole share of; the legal ones are listed.
    """

    def __init__(self, widths: Sequence[float] = (0.25, 0.5, 0.75, 1.0), **unet: Any) -> None:
        super().__init__(**unet)
        self.widths = check_widths(self.config, widths)
        self.register_to_config(widths=list(self.widths))
        self.active_width = 1.0

    def __getstate__(self) -> dict[str, Any]:
        # Views hold parts of a step's graph, which can't be copied; they are made again when they are needed.
        return {key: value for key, value in self.__dict__.items() if key not in ('_views', '_axes')}

    def check_width(self, width: float) -> float:
        """Raise ValueError unless the network was made for ``width``."""
        if width not in self.widths:
            raise ValueError(f'width: got {width}; this network has {", ".join(f"{w:g}" for w in self.widths)}.')
        return width

    @contextlib.contextmanager
    def at(self, width: float) -> Iterator[SlimmableUNet]:
        """Run at ``width`` inside the context, wherever a call does not say."""
        before, self.active_width = self.active_width, self.check_width(width)
        try:
            yield self
        finally:
            self.active_width = before

    @property
    def axes(self) -> dict[str, Axes]:
        """Channel axes of every parameter."""
        if '_axes' not in self.__dict__:
            self.__dict__['_axes'] = unet_axes(self, self.widths)
        return self.__dict__['_axes']

    def stage_channels(self) -> dict[str, Channels]:
        """The channels of what each stage gives (the taps ``down1``, ``mid``, ``up1``, ...), by its name."""
        stages = [Stage.parse(f'down{i}', stage) for i, stage in enumerate(self.config.stages, 1)]
        *maps, middle = feature_maps(self, stages)
        names = range(1, len(maps) + 1)
        return ({f'down{i}': maps[i - 1] for i in names} | {'mid': middle} | {f'up{i}': maps[i - 1] for i in names})

    def _view(self, width: float) -> View:
        views = self.__dict__.setdefault('_views', {})
        if width not in views:
            views[width] = View(self, self.axes, width)
        return views[width]

    def network_at(self, width: float) -> nn.Module:
        """The module that runs at ``width``: hooks on its submodules see that width's features.

        It has no weights between calls. Call the slimmable network, not this.
        """
        return self if self.check_width(width) == 1 else self._view(width).network

    def forward(self, sample: Tensor, timestep: Tensor | float | int, class_labels: Tensor | None = None,
                encoder_hidden_states: Tensor | None = None, return_dict: bool = True,
                width: float | None = None) -> Any:
        """As :meth:`slimdiff.UNet.forward`, at ``width``, or the one set by :meth:`at`."""
        with contextlib.nullcontext() if width is None else self.at(width):
            return super().forward(sample, timestep, class_labels, encoder_hidden_states, return_dict)

    def with_features(self, *args: Any, **kwargs: Any) -> tuple[Prediction, Tensor]:
        """As :meth:`slimdiff.UNet.with_features`, at the active width."""
        return self._run(UNet.with_features, *args, **kwargs)

    def shallow(self, *args: Any, **kwargs: Any) -> Prediction:
        """As :meth:`slimdiff.UNet.shallow`, at the active width, whose features it wants."""
        return self._run(UNet.shallow, *args, **kwargs)

    def _run(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.active_width == 1:
            return method(self, *args, **kwargs)
        view = self._view(self.active_width)
        network = view.network.train(self.training)
        checkpoints = self.mid.gradient_checkpointing
        if network.mid.gradient_checkpointing != checkpoints:
            network._set_gradient_checkpointing(checkpoints, self.mid._gradient_checkpointing_func)
        view.fill(dict(self.named_parameters()))
        try:
            return method(network, *args, **kwargs)
        finally:
            # A checkpointed block runs once more in the backward pass, with these slices.
            if not (checkpoints and torch.is_grad_enabled()):
                view.clear()

    @torch.no_grad()
    def extract(self, width: float) -> UNet:
        """The dense :class:`~slimdiff.UNet` of ``width``, with copies of its weights, in their precision and place."""
        view = View(self, self.axes, self.check_width(width))
        weights = dict(self.named_parameters())
        for slots, key, name, slicer in view.places:
            weight = slicer.cut(weights[name]).clone()
            if weight.dim() == 4:
                weight = weight.contiguous(memory_format=torch.channels_last)
            slots[key] = nn.Parameter(weight, weights[name].requires_grad)
        return view.network.to(self.device).train(self.training)


# diffusers and our registry read from the signature which keys of a config to pass on.
SlimmableUNet.__init__.__signature__ = inspect.Signature([
    *inspect.signature(UNet.__init__).parameters.values(),
    inspect.signature(SlimmableUNet.__init__).parameters['widths']])
# The path that users and exported folders name; it will not move.
SlimmableUNet.__module__ = 'slimdiff'
