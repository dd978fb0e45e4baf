from pathlib import Path

import pytest
import torch

from slimdiff.evaluation import FrechetDistance, LaplacianSWD, RadialSpectrumDistance

METRICS = [FrechetDistance, LaplacianSWD, RadialSpectrumDistance]


@pytest.mark.parametrize('cls', METRICS)
def test_batching_and_merging_do_not_change_the_figures(cls):
    generator = torch.Generator().manual_seed(0)
    real, generated = (torch.rand(24, 3, 32, 32, generator=generator) * 2 - 1 for _ in range(2))
    whole, parts = cls(), cls()
    whole.update(real, real=True)
    whole.update(generated, real=False)
    for start, stop in ((0, 5), (5, 6), (6, 24)):
        parts.update(real[start:stop], real=True)
        parts.update(generated[start:stop], real=False)
    assert parts.compute() == pytest.approx(whole.compute(), rel=1e-4, abs=1e-6)
    assert parts.count(True) == 24

    restored = cls()
    restored.load_rows(parts.rows(True), True)
    restored.load_rows(parts.rows(False), False)
    assert restored.compute() == parts.compute()


def test_reset_generated_keeps_the_real_images():
    metric = RadialSpectrumDistance()
    metric.update(torch.rand(3, 3, 8, 8), real=True)
    metric.update(torch.rand(3, 3, 8, 8), real=False)
    metric.reset_generated()
    assert (metric.count(True), metric.count(False)) == (3, 0)
    with pytest.raises(ValueError, match='at least 1 generated images, got 0'):
        metric.compute()


@pytest.mark.parametrize('images', [torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8)])
def test_wrong_batches_are_refused(images):
    with pytest.raises(ValueError, match='images must be float'):
        RadialSpectrumDistance().update(images, real=True)


def test_nan_images_are_refused_by_name():
    with pytest.raises(ValueError, match='generated images hold NaN'):
        RadialSpectrumDistance().update(torch.full((2, 3, 8, 8), float('nan')), real=False)


@pytest.mark.parametrize('cls', METRICS)
def test_autocast_does_not_move_the_statistics(cls):
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    plain, cast = cls(), cls()
    plain.update(images, real=True)
    with torch.autocast('cpu', torch.bfloat16):
        cast.update(images, real=True)
    for key, value in plain.rows(True).items():
        torch.testing.assert_close(cast.rows(True)[key], value, rtol=0, atol=0)


def test_the_metric_of_the_docs_works():
    page = (Path(__file__).parents[3] / 'docs/en/user_guides/metrics.md').read_text()
    code = page.split('## Your own')[1].split('```python\n')[1].split('```')[0]
    scope: dict = {}
    exec(code, scope)
    try:
        metric = scope['METRICS'].build(dict(type='Brightness'))
        metric.update(torch.zeros(3, 3, 4, 4), real=True)
        metric.update(torch.full((2, 3, 4, 4), 0.25), real=False)
        assert metric.compute() == {'brightness': 0.25}
    finally:
        scope['METRICS'].module_dict.pop('Brightness', None)
