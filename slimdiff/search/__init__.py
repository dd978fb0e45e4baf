"""Which width for which step: the space of allocations, evaluators that judge them, searchers that propose them.

Called as a function, ``slimdiff.search(pipe, data, budget=0.5)``, it is :func:`slimdiff.api.search`.
"""

import sys
import types
from typing import Any

from slimdiff.search.budget import Budget
from slimdiff.search.costs import NetworkCosts, count_macs
from slimdiff.search.evaluation import Evaluation, Work, hypervolume, pareto, rank_correlation
from slimdiff.search.evaluators import (
    AdditiveEvaluator,
    DivergenceEvaluator,
    Evaluator,
    FrechetEvaluator,
    LossGapEvaluator,
    SamplingEvaluator,
    SensitivityEvaluator,
)
from slimdiff.search.outcome import Outcome
from slimdiff.search.prefix import sample_tree
from slimdiff.search.problem import Problem
from slimdiff.search.run import Search, SearchInterrupted
from slimdiff.search.searchers import (
    DynamicProgramming,
    NSGA2Search,
    RandomSearch,
    Searcher,
    TwoStageSearch,
    additive_front,
)
from slimdiff.search.space import Genome, SearchSpace
from slimdiff.search.state import SearchDirError

__all__ = ['AdditiveEvaluator', 'Budget', 'DivergenceEvaluator', 'DynamicProgramming', 'Evaluation', 'Evaluator',
           'FrechetEvaluator', 'Genome', 'LossGapEvaluator', 'NSGA2Search', 'NetworkCosts', 'Outcome', 'Problem',
           'RandomSearch', 'SamplingEvaluator', 'Search', 'SearchDirError', 'SearchInterrupted', 'SearchSpace',
           'Searcher', 'SensitivityEvaluator', 'TwoStageSearch', 'Work', 'additive_front', 'count_macs',
           'hypervolume', 'pareto', 'rank_correlation', 'sample_tree']


class _Callable(types.ModuleType):
    """``slimdiff.search`` is this package as soon as it is imported, and a function of the front door as well."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from slimdiff import api
        return api.search(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
