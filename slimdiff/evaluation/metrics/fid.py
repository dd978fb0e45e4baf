"""FID and KID, computed by torchmetrics on the features of FID's own Inception."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from slimdiff.evaluation.inception import build_inception
from slimdiff.evaluation.metrics.base import Rows
from slimdiff.evaluation.metrics.frechet import FeatureMetric
from slimdiff.registry import METRICS
from slimdiff.sampling.images import as_rgb, to_uint8


class Features(nn.Module):
    """Stands where torchmetrics expects Inception; the features come in ready."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class InceptionMetric(FeatureMetric):
    """Rows are Inception features of the 8-bit images."""

    def __init__(self, weights: str | None) -> None:
        super().__init__(build_inception(weights))

    def statistics(self, images: Tensor) -> Rows:
        self.extractor.to(images.device)
        return dict(features=self.extractor(to_uint8(as_rgb(images))).float())


@METRICS.register_module()
class FID(InceptionMetric):
    """Frechet Inception distance (Heusel et al. 2017).

    Published figures use 50,000 images; with fewer it comes out larger.

    Args:
        weights: path of ``pt_inception-2015-12-05-6726825d.pth``; None downloads them through torch-fidelity, if that
            extra is installed.
        prefix: name of the figure.

    Raises:
        ValueError: no weights found, or a file that holds something else.
    """

    def __init__(self, weights: str | None = None, prefix: str = 'fid') -> None:
        super().__init__(weights)
        self.prefix = prefix

    def distance(self, real: Rows, generated: Rows) -> dict[str, float]:
        self.warn_of_few(real, generated)
        from torchmetrics.image.fid import FrechetInceptionDistance  # late: it takes a second to import
        metric = FrechetInceptionDistance(feature=Features(real['features'].shape[1]))
        # float64 from the first sum on: torchmetrics returns the distance in the type of the last features.
        metric.update(real['features'].double(), real=True)
        metric.update(generated['features'].double(), real=False)
        return {self.prefix: metric.compute().item()}


@METRICS.register_module()
class KID(InceptionMetric):
    """Kernel Inception distance (Binkowski et al. 2018): unbiased, so it suits small sets; times 1000 by custom.

    Args:
        weights: as for :class:`FID`.
        subsets, subset_size: the squared MMD is averaged over random subsets; the size is cut to the smaller set.
        seed: of the subsets.
        prefix: of the names of the figures: the mean, and ``_std``, the standard deviation over subsets. Where neither
            set is larger than ``subset_size``, or there is one subset, nothing varies, and there is no ``_std``.

    Raises:
        ValueError: no weights found, or a file that holds something else.
    """

    def __init__(self, weights: str | None = None, subsets: int = 100, subset_size: int = 1000, seed: int = 0,
                 prefix: str = 'kid') -> None:
        super().__init__(weights)
        self.subsets = subsets
        self.subset_size = subset_size
        self.seed = seed
        self.prefix = prefix

    def distance(self, real: Rows, generated: Rows) -> dict[str, float]:
        from torchmetrics.image.kid import KernelInceptionDistance
        size = min(self.subset_size, len(real['features']), len(generated['features']))
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='.*will save all extracted features')
            metric = KernelInceptionDistance(feature=Features(real['features'].shape[1]), subsets=self.subsets,
                                             subset_size=size)
        metric.update(real['features'].double(), real=True)
        metric.update(generated['features'].double(), real=False)
        # torchmetrics draws the subsets from the global generator: fix it, and give it back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            mean, std = metric.compute()
        figures = {self.prefix: 1000 * mean.item()}
        if self.subsets > 1 and self.subset_size < max(len(real['features']), len(generated['features'])):
            figures[f'{self.prefix}_std'] = 1000 * std.item()
        return figures
