"""A UNet that runs at several widths with one set of weights."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from slimdiff.models.backbones.slimmable.axes import feature_maps, unet_axes
from slimdiff.models.backbones.slimmable.config import check_widths, slim_config
from slimdiff.models.backbones.slimmable.importance import order_channels
from slimdiff.models.backbones.slimmable.network import SlimmableNetwork
from slimdiff.models.backbones.unet import UNet
from slimdiff.models.backbones.unet.stages import Stage
from slimdiff.models.layers.channels import Axes, Channels
from slimdiff.registry import MODELS
from slimdiff.sampling.actions import Run


@MODELS.register_module()
class SlimmableUNet(SlimmableNetwork, UNet):
    """A :class:`~slimdiff.UNet` that also runs at smaller widths, with slices of its weights.

    The supernet of DDSM (Yang et al., ICLR 2024), for every UNet that the config describes. What it does is in
    :class:`~slimdiff.models.backbones.slimmable.network.SlimmableNetwork`.

    Args:
        widths: shares of the channels, 1.0 among them.
        **unet: arguments of :class:`~slimdiff.UNet`.

    Raises:
        ValueError: a width that channels, norm groups or bands have no whole share of; the legal ones are listed.
    """

    dense_class = UNet

    def __init__(self, widths: Sequence[float] = (0.25, 0.5, 0.75, 1.0), **unet: Any) -> None:
        super().__init__(**unet)
        self.widths = check_widths(self.config, widths)
        self.register_to_config(widths=list(self.widths))

    def check_run(self, run: Run) -> Run:
        if run.width not in self.widths:
            raise ValueError(f'width: got {run.width:g}; this network has {", ".join(f"{w:g}" for w in self.widths)}.')
        if run.depth != 1:
            raise ValueError(f'depth: got {run.depth:g}; a SlimmableUNet has one depth.')
        return run

    def dense(self, run: Run) -> UNet:
        return UNet(**slim_config(self.config, run.width, self.widths))

    def make_axes(self) -> dict[str, Axes]:
        return unet_axes(self, self.widths)

    def order_by_importance(self) -> int:
        """See :func:`~slimdiff.models.backbones.slimmable.importance.order_channels`."""
        return order_channels(self, self.widths)

    def stage_channels(self) -> dict[str, Channels]:
        """The channels of what each stage gives (the taps ``down1``, ``mid``, ``up1``, ...), by its name."""
        stages = [Stage.parse(f'down{i}', stage) for i, stage in enumerate(self.config.stages, 1)]
        *maps, middle = feature_maps(self, stages)
        names = range(1, len(maps) + 1)
        return ({f'down{i}': maps[i - 1] for i in names} | {'mid': middle} | {f'up{i}': maps[i - 1] for i in names})


# diffusers and our registry read from the signature which keys of a config to pass on.
SlimmableUNet.__init__.__signature__ = inspect.Signature([
    *inspect.signature(UNet.__init__).parameters.values(),
    inspect.signature(SlimmableUNet.__init__).parameters['widths']])
# The path that users and exported folders name; it will not move.
SlimmableUNet.__module__ = 'slimdiff'
