import math

import pytest
from scipy import stats

from studies.reproduce.statistics import paired, summarise


def test_mean_and_spread_by_hand():
    found = summarise([1.0, 2.0, 6.0])
    assert (found.n, found.mean, found.std) == (3, 3.0, pytest.approx(math.sqrt(7)))
    assert summarise([4.0]).std is None and summarise([]) is None


def test_paired_by_hand():
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t = 2 sqrt(3), quantile t(0.975, 2) = 4.302653."""
    found = paired({0: 11.0, 1: 22.0, 2: 33.0, 9: 0.0}, {0: 10.0, 1: 20.0, 2: 30.0, 5: 7.0})
    assert (found.n, found.mean, found.base) == (3, 2.0, 20.0)
    half = 4.302652729911275 / math.sqrt(3)
    assert found.low == pytest.approx(2 - half) and found.high == pytest.approx(2 + half)
    # Student's t with 2 degrees of freedom has the closed form P(|T| > t) = 1 - t / sqrt(2 + t^2).
    t = 2 * math.sqrt(3)
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t * t))


def test_interval_and_test_are_scipys():
    ours, theirs = [0.31, 0.42, 0.29, 0.37, 0.33], [0.35, 0.41, 0.33, 0.40, 0.36]
    found = paired(dict(enumerate(ours)), dict(enumerate(theirs)))
    expected = stats.ttest_rel(ours, theirs)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_what_cannot_be_tested():
    one = paired({0: 2.0}, {0: 1.0})
    assert (one.n, one.mean, one.p, one.low) == (1, 1.0, None, None)
    assert paired({0: 2.0}, {1: 1.0}) is None
    assert paired({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0}).p is None  # the same difference twice
