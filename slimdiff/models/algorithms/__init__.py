"""What a Runner trains."""

from slimdiff.models.algorithms.diffusion_model import DiffusionModel

__all__ = ['DiffusionModel']
