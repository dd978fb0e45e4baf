"""Networks and the algorithms that train them."""

from slimdiff.models import autoencoders, backbones, conditioners, losses, resamplers
from slimdiff.models.algorithms import DiffusionModel, Distiller
from slimdiff.models.backbones import UNet

__all__ = [
    'DiffusionModel', 'Distiller', 'UNet', 'autoencoders', 'backbones', 'conditioners', 'losses', 'resamplers'
]
