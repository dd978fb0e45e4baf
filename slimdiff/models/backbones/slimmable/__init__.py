"""Slimmable networks: one set of weights, several widths."""

from slimdiff.models.backbones.slimmable.config import slim_config
from slimdiff.models.backbones.slimmable.unet import SlimmableUNet

__all__ = ['SlimmableUNet', 'slim_config']
