"""UNets."""

from slimdiff.models.unets.unet import UNet

__all__ = ['UNet']
