"""Networks that are trained, searched and served, and what the rest of slimdiff asks of any of them."""

from slimdiff.models.backbones.slimmable import SlimmableUNet
from slimdiff.models.backbones.step_aware import StepAwareUNet, make_step_aware
from slimdiff.models.backbones.unet import UNet

__all__ = ['SlimmableUNet', 'StepAwareUNet', 'UNet', 'make_step_aware']
