"""The UNet of slimdiff."""

from slimdiff.models.backbones.unet.unet import UNet

__all__ = ['UNet']
