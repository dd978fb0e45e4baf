"""Searchers: random, NSGA-II, exact dynamic programming on the additive surrogate, and both stages in a row."""

from slimdiff.search.searchers.base import Searcher
from slimdiff.search.searchers.dynamic_programming import DynamicProgramming, additive_front
from slimdiff.search.searchers.nsga2 import NSGA2Search
from slimdiff.search.searchers.random import RandomSearch
from slimdiff.search.searchers.two_stage import TwoStageSearch

__all__ = ['DynamicProgramming', 'NSGA2Search', 'RandomSearch', 'Searcher', 'TwoStageSearch', 'additive_front']
