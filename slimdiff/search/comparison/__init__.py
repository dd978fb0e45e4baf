"""Is a step allocation worth it? Allocations, searched and plain, against the full network: quality, MACs, seconds."""

from slimdiff.search.comparison.compare import compare
from slimdiff.search.comparison.fronts import judge_fronts
from slimdiff.search.comparison.rivals import Rival, baselines
from slimdiff.search.comparison.tables import comparison_table

__all__ = ['Rival', 'baselines', 'compare', 'comparison_table', 'judge_fronts']
