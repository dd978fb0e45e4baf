"""The ladder of evaluators, cheap to expensive: loss gap, sensitivity, divergence from the full network, Frechet."""

from slimdiff.search.evaluators.additive import AdditiveEvaluator
from slimdiff.search.evaluators.base import Evaluator
from slimdiff.search.evaluators.divergence import DivergenceEvaluator
from slimdiff.search.evaluators.frechet import FrechetEvaluator
from slimdiff.search.evaluators.loss_gap import LossGapEvaluator
from slimdiff.search.evaluators.sampling import SamplingEvaluator
from slimdiff.search.evaluators.sensitivity import SensitivityEvaluator

__all__ = ['AdditiveEvaluator', 'DivergenceEvaluator', 'Evaluator', 'FrechetEvaluator', 'LossGapEvaluator',
           'SamplingEvaluator', 'SensitivityEvaluator']
