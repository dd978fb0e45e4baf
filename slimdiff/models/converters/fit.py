"""How well a checkpoint fits a UNet, by names and shapes alone: no weight is read and none is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ModelMixin

from slimdiff.arguments import plain
from slimdiff.checkpoint.weights import count_some
from slimdiff.models.backbones.unet import UNet
from slimdiff.models.converters.compvis import AVERAGE_COUNTERS, UNET, CompVisCheckpoint, average_name
from slimdiff.models.converters.unet import bare_shape, unet_sources
from slimdiff.registry import MODELS


def empty_unet(model: Mapping[str, Any]) -> UNet:
    """The UNet of a model's config on the meta device: names and shapes, no memory.

    Raises:
        ValueError: a network that isn't our UNet.
    """
    config = plain(model['unet'])
    if model.get('num_classes') is not None:
        config.setdefault('num_classes', model['num_classes'])
    with torch.device('meta'):
        unet = MODELS.build(config, kind=ModelMixin)
    if not isinstance(unet, UNet):
        raise ValueError(f"The config's network is a {type(unet).__name__}; checkpoints are converted to the UNet.")
    return unet


@dataclasses.dataclass
class Fit:
    """What a checkpoint's UNet and one of ours have in common."""
    same: int
    missing: list[str]
    shapes: list[str]
    extra: list[str]

    @property
    def perfect(self) -> bool:
        return not (self.missing or self.shapes or self.extra)

    @property
    def share(self) -> float:
        """Weights of the same name and shape among all names of the two."""
        return self.same / max(self.same + len(self.missing) + len(self.shapes) + len(self.extra), 1)

    def differences(self) -> str:
        """What differs, in a few words: counts, and a name of each kind."""
        return '; '.join(f'{label}: {count_some(names)}' for label, names in (
            ('missing', self.missing), ('of another shape', self.shapes), ('unexpected', self.extra)) if names)


def compare(checkpoint: CompVisCheckpoint, unet: UNet) -> Fit:
    """Compare the UNet in a file (its trained weights, else its averaged ones) with ``unet``.

    Raises:
        ValueError: see :func:`~slimdiff.models.converters.unet.unet_sources`.
    """
    names = (lambda name: name) if checkpoint.has_trained else average_name
    prefix = UNET if checkpoint.has_trained else average_name(UNET)
    target = unet.state_dict()
    expected = {names(source.name): bare_shape(target[name]) for name, source in unet_sources(unet).items()
                if source.name.startswith(UNET)}
    given = {name: bare_shape(value) for name, value in checkpoint.state.items()
             if name.startswith(prefix) and name not in AVERAGE_COUNTERS}
    common = expected.keys() & given.keys()
    shapes = [f'{name} {given[name]} instead of {expected[name]}' for name in expected
              if name in common and given[name] != expected[name]]
    return Fit(len(common) - len(shapes), [n for n in expected if n not in given], shapes,
               [n for n in given if n not in expected])
