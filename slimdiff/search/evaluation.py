"""What a candidate turned out to be, and arithmetic on many: Pareto fronts, hypervolume, rank correlation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Evaluation:
    """Of one candidate.

    Args:
        quality: lower is better; its meaning is the evaluator's. NaN where the candidate failed.
        macs: of the network, for one image through the whole sampling, guidance included.
        latency: seconds for one image, where it was measured.
        failed: no quality could be had.
        reason: why.
    """

    quality: float
    macs: float
    latency: float | None = None
    failed: bool = False
    reason: str = ''

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which has no NaN."""
        return {**dataclasses.asdict(self), 'quality': None if self.failed else self.quality}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Evaluation:
        return cls(**{**data, 'quality': math.nan if data['quality'] is None else data['quality']})


@dataclass
class Work:
    """What a search has spent: network MACs, network calls (of one image), generated images, seconds."""

    macs: float = 0.0
    calls: int = 0
    images: int = 0
    seconds: float = 0.0
    #: calls (of one image) that shared prefixes and the cache made unnecessary
    calls_saved: int = 0

    def __add__(self, other: Work) -> Work:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other))
        return Work(*(a + b for a, b in pairs))

    def __sub__(self, other: Work) -> Work:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other))
        return Work(*(a - b for a, b in pairs))


def pareto(points: Sequence[Sequence[float]], tolerance: float = 1e-12) -> list[int]:
    """Indices of the points (cost, quality), both lower is better, that no other one beats, by rising cost.

    Of equal points the first counts. A better quality must be better by ``tolerance`` of the spread of qualities:
    rounding makes no front. Points with NaN or infinity are on no front.
    """
    array = np.asarray(points, dtype=float).reshape(-1, 2)
    finite = np.flatnonzero(np.isfinite(array).all(1))
    if not len(finite):
        return []
    cost, quality = array[finite].T
    order = np.lexsort((finite, quality, cost))
    slack = tolerance * max(np.ptp(quality), np.abs(quality).max())
    kept, best = [], math.inf
    for i in order:
        if quality[i] < best - slack:
            kept.append(int(finite[i]))
            best = quality[i]
    return kept


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float], ideal: Sequence[float]) -> float:
    """Share of the box between ``ideal`` and ``reference`` that the points (cost, quality) dominate, in 0..1."""
    array = np.asarray(points, dtype=float).reshape(-1, 2)
    low, high = np.asarray(ideal, dtype=float), np.asarray(reference, dtype=float)
    scaled = np.clip((array - low) / (high - low), 0, None)
    scaled = scaled[(scaled < 1).all(1)]
    area, top = 0.0, 1.0
    for i in pareto(scaled, tolerance=0.0):
        cost, quality = scaled[i]
        area += (1 - cost) * (top - quality)
        top = quality
    return float(area)


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation, ties by their mean rank; pairs with a NaN are left out.

    NaN if fewer than three pairs are left, or one of the two is constant.
    """
    pairs = np.asarray([a, b], dtype=float)
    if pairs.ndim != 2:
        raise ValueError(f'rank_correlation: got {len(a)} and {len(b)} values; give two sequences of equal length.')
    pairs = pairs[:, np.isfinite(pairs).all(0)]
    if pairs.shape[1] < 3:
        return math.nan
    if (pairs == pairs[:, :1]).all(1).any():
        return math.nan
    from scipy.stats import spearmanr  # takes a second to import
    return float(spearmanr(*pairs).statistic)
