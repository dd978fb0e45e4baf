"""The ladder of evaluators, cheap to dear: loss gap, divergence from the full network, Frechet distance."""

from slimdiff.search.evaluators.base import Evaluator
from slimdiff.search.evaluators.loss_gap import LossGapEvaluator

__all__ = ['Evaluator', 'LossGapEvaluator']
