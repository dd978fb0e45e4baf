"""The ladder of evaluators, cheap to dear: loss gap, divergence from the full network, Frechet distance."""

from slimdiff.search.evaluators.base import Evaluator
from slimdiff.search.evaluators.divergence import DivergenceEvaluator
from slimdiff.search.evaluators.frechet import FrechetEvaluator
from slimdiff.search.evaluators.loss_gap import LossGapEvaluator
from slimdiff.search.evaluators.sampling import SamplingEvaluator

__all__ = ['DivergenceEvaluator', 'Evaluator', 'FrechetEvaluator', 'LossGapEvaluator', 'SamplingEvaluator']
