"""Networks and the algorithms that train them."""

from slimdiff.models import autoencoders, conditioners, losses, resamplers, slimmable, unets
from slimdiff.models.algorithms import DiffusionModel, Distiller
from slimdiff.models.unets import UNet

__all__ = [
    'DiffusionModel', 'Distiller', 'UNet', 'autoencoders', 'conditioners', 'losses', 'resamplers', 'slimmable', 'unets'
]
