"""UNets."""

from slimdiff.models.unets.step_aware import StepAwareUNet, make_step_aware
from slimdiff.models.unets.unet import UNet

__all__ = ['StepAwareUNet', 'UNet', 'make_step_aware']
