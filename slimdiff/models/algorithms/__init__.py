"""What a Runner trains."""

from slimdiff.models.algorithms.diffusion_model import DiffusionModel
from slimdiff.models.algorithms.distiller import Distiller
from slimdiff.models.algorithms.draws import NoisedBatch
from slimdiff.models.algorithms.slimmable import SlimmableDiffusion, SlimmableDistiller

__all__ = ['DiffusionModel', 'Distiller', 'NoisedBatch', 'SlimmableDiffusion', 'SlimmableDistiller']
