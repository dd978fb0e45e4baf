"""Which width for which step: the space of allocations, evaluators that judge them, searchers that propose them."""

from slimdiff.search.evaluation import Evaluation, Work, hypervolume, pareto, rank_correlation
from slimdiff.search.space import Genome, SearchSpace

__all__ = ['Evaluation', 'Genome', 'SearchSpace', 'Work', 'hypervolume', 'pareto', 'rank_correlation']
