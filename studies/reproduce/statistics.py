"""Mean and spread over training seeds, and what differs from the baseline seed by seed."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from scipy import stats

from studies.compare_runs import summarise as mean_and_std


@dataclasses.dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (None of one value) of ``n`` runs."""
    n: int
    mean: float
    std: float | None


def summarise(values: Sequence[float]) -> Summary | None:
    """None without values."""
    if not values:
        return None
    return Summary(len(values), *mean_and_std(values))


@dataclasses.dataclass(frozen=True)
class Paired:
    """Mean difference over ``n`` common seeds.

    ``low`` and ``high`` bound the 95 % confidence interval, ``p`` is of the two-sided paired t-test; all None for one
    pair. ``base`` is the baseline's mean over the same seeds.
    """
    n: int
    mean: float
    base: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Paired | None:
    """Compare ``{seed: value}`` with the baseline's over the seeds that both have; None if there are none.

    The same seed gives two networks the same order of the data, the same timesteps and the same noise, so part of
    what a seed does to both cancels in the difference.
    """
    seeds = sorted(values.keys() & baseline.keys())
    if not seeds:
        return None
    ours, theirs = [values[s] for s in seeds], [baseline[s] for s in seeds]
    differences = [a - b for a, b in zip(ours, theirs)]
    mean, base = statistics.fmean(differences), statistics.fmean(theirs)
    if len(seeds) < 2:
        return Paired(1, mean, base)
    half = stats.t.ppf(0.975, len(seeds) - 1) * statistics.stdev(differences) / math.sqrt(len(seeds))
    # Differences that are all the same, but for rounding, have no spread to test against.
    p = float(stats.ttest_rel(ours, theirs).pvalue) if half > 1e-9 * abs(mean) else None
    return Paired(len(seeds), mean, base, mean - half, mean + half, p)
