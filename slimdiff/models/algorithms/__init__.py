"""What a Runner trains."""

from slimdiff.models.algorithms.batches import NoisedBatch
from slimdiff.models.algorithms.diffusion_model import DiffusionModel
from slimdiff.models.algorithms.distiller import Distiller

__all__ = ['DiffusionModel', 'Distiller', 'NoisedBatch']
