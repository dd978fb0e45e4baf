"""Evaluation: how good the images are, and what the network costs."""

from slimdiff.evaluation.cost import Cost, count_cost
from slimdiff.evaluation.evaluate import evaluate, noise_floor
from slimdiff.evaluation.extractors import RandomConvExtractor, TorchScriptExtractor
from slimdiff.evaluation.loop import EvaluationLoop
from slimdiff.evaluation.metrics import (
    FID,
    KID,
    BandwiseDenoisingError,
    FrechetDistance,
    LaplacianSWD,
    ModelMetric,
    RadialSpectrumDistance,
    SetMetric,
)

__all__ = [
    'FID', 'KID', 'BandwiseDenoisingError', 'Cost', 'EvaluationLoop', 'FrechetDistance', 'LaplacianSWD', 'ModelMetric',
    'RadialSpectrumDistance', 'RandomConvExtractor', 'SetMetric', 'TorchScriptExtractor', 'count_cost', 'evaluate',
    'noise_floor'
]
