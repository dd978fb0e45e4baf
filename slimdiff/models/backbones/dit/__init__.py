"""The transformer of slimdiff."""

from slimdiff.models.backbones.dit.dit import DiT

__all__ = ['DiT']
