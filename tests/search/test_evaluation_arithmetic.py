"""Fronts, hypervolume and rank correlation against brute force, hand computation and scipy."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from slimdiff.search import Evaluation, Work, hypervolume, pareto, rank_correlation


def test_pareto_is_what_no_point_beats():
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = rng.integers(0, 12, (60, 2)).astype(float)
        found = [tuple(points[i]) for i in pareto(points)]
        expected = {tuple(p) for p in points if not any((q <= p).all() and (q < p).any() for q in points)}
        assert found == sorted(expected)


def test_pareto_leaves_out_what_failed_and_what_rounding_made():
    assert pareto([[1, math.nan], [2, 5], [3, math.inf], [math.nan, 0]]) == [1]
    assert pareto([[1, 5], [2, 5 - 1e-14], [3, 4]]) == [0, 2]
    assert pareto([]) == []


def test_hypervolume_by_hand():
    """Two points in the box (0, 0)..(4, 2): 3 x 1 and 1 x 0.5 more, of 8."""
    assert hypervolume([[1, 1], [3, .5], [2, 1.5], [5, 0]], reference=(4, 2), ideal=(0, 0)) == pytest.approx(3.5 / 8)
    assert hypervolume([[0, 0]], (4, 2), (0, 0)) == 1 and hypervolume([], (4, 2), (0, 0)) == 0


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    for _ in range(10):
        a, b = rng.integers(0, 6, 20), rng.normal(size=20)
        assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert rank_correlation([1, 2, 3, math.nan], [10, 20, 90, 0]) == pytest.approx(1)
    assert math.isnan(rank_correlation([1, 2], [1, 2])) and math.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))


def test_plain_data():
    for e in (Evaluation(.5, 100., .25), Evaluation(math.nan, 3., failed=True, reason='NaN')):
        assert repr(Evaluation.from_dict(e.to_dict())) == repr(e)
    assert Work(1, 2, 3, 4, 5) + Work(1, 1, 1, 1, 1) - Work(2, 3, 4, 5, 6) == Work()
