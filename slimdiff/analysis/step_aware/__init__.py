"""Is a step allocation worth it? Allocations, searched and plain, against the full network: quality, MACs, seconds."""

from slimdiff.analysis.step_aware.comparison import compare
from slimdiff.analysis.step_aware.fronts import judge_fronts
from slimdiff.analysis.step_aware.rivals import Rival, baselines

__all__ = ['Rival', 'baselines', 'compare', 'judge_fronts']
