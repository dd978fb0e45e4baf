"""Networks that are trained, searched and served, and what the rest of slimdiff asks of any of them."""

from slimdiff.models.backbones.adapt import AdaptedBackbone
from slimdiff.models.backbones.dit import DiT
from slimdiff.models.backbones.load import build_backbone, load_folder
from slimdiff.models.backbones.preconditioned import PreconditionedBackbone
from slimdiff.models.backbones.slimmable import SlimmableDiT, SlimmableUNet
from slimdiff.models.backbones.step_aware import StepAwareUNet, make_step_aware
from slimdiff.models.backbones.unet import UNet

__all__ = ['AdaptedBackbone', 'DiT', 'PreconditionedBackbone', 'SlimmableDiT', 'SlimmableUNet', 'StepAwareUNet', 'UNet',
           'build_backbone', 'load_folder', 'make_step_aware']
