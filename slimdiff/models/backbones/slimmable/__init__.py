"""Slimmable networks: one set of weights, several widths."""

from slimdiff.models.backbones.slimmable.config import slim_config
from slimdiff.models.backbones.slimmable.dit import SlimmableDiT
from slimdiff.models.backbones.slimmable.unet import SlimmableUNet

__all__ = ['SlimmableDiT', 'SlimmableUNet', 'slim_config']
