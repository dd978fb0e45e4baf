"""Evaluation: how good the images are, and what the network costs."""

from slimdiff.evaluation.cost import Cost, count_cost
from slimdiff.evaluation.efficientnet import EfficientNetLite0
from slimdiff.evaluation.evaluate import evaluate, noise_floor
from slimdiff.evaluation.extractors import RandomConvExtractor, TorchScriptExtractor
from slimdiff.evaluation.loop import EvaluationLoop
from slimdiff.evaluation.metrics import (
    FID,
    KID,
    BandwiseDenoisingError,
    ClassAccuracy,
    FrechetDistance,
    KernelDistance,
    LaplacianSWD,
    ModelMetric,
    RadialSpectrumDistance,
    SetMetric,
)

__all__ = [
    'FID', 'KID', 'BandwiseDenoisingError', 'ClassAccuracy', 'Cost', 'EfficientNetLite0', 'EvaluationLoop',
    'FrechetDistance', 'KernelDistance', 'LaplacianSWD', 'ModelMetric', 'RadialSpectrumDistance',
    'RandomConvExtractor', 'SetMetric', 'TorchScriptExtractor', 'count_cost', 'evaluate', 'noise_floor'
]
