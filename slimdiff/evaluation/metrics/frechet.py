"""Frechet distance between feature sets, with any extractor."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from slimdiff.evaluation.metrics.base import Rows, SetMetric
from slimdiff.registry import EXTRACTORS, METRICS
from slimdiff.sampling.images import as_rgb


def gaussian_moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) in float64 of features (N, D)."""
    features = features.double()
    mean = features.mean(0)
    centred = features - mean
    return mean, centred.t() @ centred / (len(features) - 1)


def sqrt_psd(matrix: Tensor) -> Tensor:
    """Symmetric square root of a positive semi-definite matrix; rounding below zero is cut off."""
    values, vectors = torch.linalg.eigh((matrix + matrix.t()) / 2)
    return vectors * values.clamp_min(0).sqrt() @ vectors.t()


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance of two Gaussians (Dowson and Landau 1982).

    |m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1 C2)^(1/2). The last trace is the sum of the singular values of
    C1^(1/2) C2^(1/2), which stays real and exact where a covariance is singular (fewer images than features).
    """
    mean1, cov1, mean2, cov2 = (value.double() for value in (mean1, cov1, mean2, cov2))
    cross = torch.linalg.svdvals(sqrt_psd(cov1) @ sqrt_psd(cov2)).sum()
    return ((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross).clamp_min(0)


class FeatureMetric(SetMetric):
    """A set metric whose rows are the features of a network; grey images reach it in three equal channels."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor.eval().requires_grad_(False)
        self._warned: set[tuple[int, int]] = set()

    def statistics(self, images: Tensor) -> Rows:
        self.extractor.to(images.device)
        return dict(features=self.extractor(as_rgb(images)).float())

    def warn_of_few(self, real: Rows, generated: Rows) -> None:
        """Say, once for each pair of numbers, that a set has too few images for a covariance of full rank."""
        dims, counts = real['features'].shape[1], (len(real['features']), len(generated['features']))
        if min(counts) <= dims and counts not in self._warned:
            self._warned.add(counts)
            print_log(f'{type(self).__name__}: {counts[0]:,} real and {counts[1]:,} generated images are too few for '
                      f'{dims:,} features: the figure is far too large, and compares only with those of equal numbers. '
                      f'At least {dims + 1:,} of each are needed (num_real, num_images).',
                      logger='current', level=logging.WARNING)


@METRICS.register_module()
class FrechetDistance(FeatureMetric):
    """Frechet distance of Gaussian fits to the features of ``extractor``.

    FID (Heusel et al. 2017) with another network. It has FID's bias: the fewer images, the larger; compare only
    equal numbers of images, and see the floor.

    Args:
        extractor: config of a registered extractor, or a module (N, 3, H, W) in [-1, 1] -> (N, D).
            :class:`~slimdiff.evaluation.efficientnet.EfficientNetLite0` measures content, the default texture.
        prefix: name of the figure.
    """

    def __init__(self,
                 extractor: Mapping[str, Any] = dict(type='RandomConvExtractor'),
                 prefix: str = 'fd') -> None:
        super().__init__(EXTRACTORS.build(extractor))
        self.prefix = prefix

    def distance(self, real: Rows, generated: Rows) -> dict[str, float]:
        self.warn_of_few(real, generated)
        distance = frechet_distance(*gaussian_moments(real['features']), *gaussian_moments(generated['features']))
        return {self.prefix: distance.item()}
