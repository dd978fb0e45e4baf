"""Metrics: distances of image sets, and errors of a model on a paired data set."""

from slimdiff.evaluation.metrics.base import ModelMetric, SetMetric
from slimdiff.evaluation.metrics.class_accuracy import ClassAccuracy
from slimdiff.evaluation.metrics.denoising import BandwiseDenoisingError
from slimdiff.evaluation.metrics.fid import FID, KID
from slimdiff.evaluation.metrics.frechet import FrechetDistance
from slimdiff.evaluation.metrics.kernel import KernelDistance
from slimdiff.evaluation.metrics.spectrum import RadialSpectrumDistance
from slimdiff.evaluation.metrics.swd import LaplacianSWD

__all__ = [
    'FID', 'KID', 'BandwiseDenoisingError', 'ClassAccuracy', 'FrechetDistance', 'KernelDistance', 'LaplacianSWD',
    'ModelMetric', 'RadialSpectrumDistance', 'SetMetric'
]
