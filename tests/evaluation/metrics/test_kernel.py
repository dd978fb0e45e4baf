import pytest
import torch

from slimdiff.evaluation import KernelDistance, RandomConvExtractor
from slimdiff.registry import METRICS


def test_it_is_the_unbiased_mmd_of_the_extractors_features():
    generator = torch.Generator().manual_seed(0)
    real, generated = (scale * torch.randn(30, 1, 20, 20, generator=generator) for scale in (0.3, 0.4))
    metric = METRICS.build(dict(type='KernelDistance', extractor=dict(type='RandomConvExtractor', seed=2), subsets=2,
                                subset_size=30))
    assert isinstance(metric, KernelDistance)
    metric.update(real, real=True)
    metric.update(generated, real=False)
    x, y = (RandomConvExtractor(seed=2)(images.repeat(1, 3, 1, 1)).double() for images in (real, generated))

    def kernel(a, b):
        return (a @ b.t() / a.shape[1] + 1)**3

    others = ~torch.eye(30, dtype=torch.bool)
    mmd = (kernel(x, x)[others].mean() + kernel(y, y)[others].mean()) - 2 * kernel(x, y).mean()
    assert metric.compute()['kd'] == pytest.approx(1000 * mmd.item(), rel=1e-3)
