"""Slimmable networks: one set of weights, several widths."""

from slimdiff.models.slimmable.config import slim_config
from slimdiff.models.slimmable.unet import SlimmableUNet

__all__ = ['SlimmableUNet', 'slim_config']
