"""Which width for which step: the space of allocations, evaluators that judge them, searchers that propose them."""

from slimdiff.search.budget import Budget
from slimdiff.search.costs import NetworkCosts, count_macs
from slimdiff.search.evaluation import Evaluation, Work, hypervolume, pareto, rank_correlation
from slimdiff.search.evaluators import Evaluator, LossGapEvaluator
from slimdiff.search.prefix import sample_tree
from slimdiff.search.problem import Problem
from slimdiff.search.searchers import (
    DynamicProgramming,
    NSGA2Search,
    RandomSearch,
    Searcher,
    TwoStageSearch,
    additive_front,
)
from slimdiff.search.space import Genome, SearchSpace

__all__ = ['Budget', 'DynamicProgramming', 'Evaluation', 'Evaluator', 'Genome', 'LossGapEvaluator', 'NSGA2Search',
           'NetworkCosts', 'Problem', 'RandomSearch', 'SearchSpace', 'Searcher', 'TwoStageSearch', 'Work',
           'additive_front', 'count_macs', 'hypervolume', 'pareto', 'rank_correlation', 'sample_tree']
