"""Datasets, image transforms and samplers."""

from slimdiff.datasets.image_folder import ImageFolder
from slimdiff.datasets.loader import build_dataloader
from slimdiff.datasets.photo_patches import PhotoPatches
from slimdiff.datasets.samplers import ResumableSampler
from slimdiff.datasets.transforms import LoadImage, PackImage, ResizeShortSide

__all__ = [
    'ImageFolder', 'LoadImage', 'PackImage', 'PhotoPatches', 'ResizeShortSide', 'ResumableSampler', 'build_dataloader',
]
