"""KernelDistance: KID's distance on the features of any extractor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slimdiff.evaluation.metrics.fid import KID
from slimdiff.evaluation.metrics.frechet import FeatureMetric
from slimdiff.registry import EXTRACTORS, METRICS


@METRICS.register_module()
class KernelDistance(KID):
    """KID (Binkowski et al. 2018) with another network than Inception; times 1000, too.

    It is unbiased: sets smaller than the number of features are no harm, where a Frechet distance needs more.

    Args:
        extractor: as for :class:`~slimdiff.evaluation.FrechetDistance`.
        subsets, subset_size, seed: as for :class:`~slimdiff.evaluation.KID`.
        prefix: of the names of the figures.
    """

    statistics = FeatureMetric.statistics

    def __init__(self, extractor: Mapping[str, Any] = dict(type='RandomConvExtractor'), subsets: int = 100,
                 subset_size: int = 1000, seed: int = 0, prefix: str = 'kd') -> None:
        FeatureMetric.__init__(self, EXTRACTORS.build(extractor))
        self.subsets, self.subset_size, self.seed, self.prefix = subsets, subset_size, seed, prefix
