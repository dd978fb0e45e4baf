import pytest
import scipy.stats
import torch

from slimdiff.evaluation.metrics.swd import LaplacianSWD, laplacian_pyramid, pyramid_up, sliced_wasserstein


@pytest.mark.parametrize('size', [(32, 32), (64, 48), (33, 35)])
def test_the_pyramid_adds_up_to_the_image(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    levels = laplacian_pyramid(x, 8)
    rebuilt = levels[-1]
    for level in reversed(levels[:-1]):
        rebuilt = level + pyramid_up(rebuilt, tuple(level.shape[-2:]))
    torch.testing.assert_close(rebuilt, x)
    assert min(levels[-1].shape[-2:]) >= 8


def test_a_smooth_image_lies_in_the_coarsest_level():
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    fine, middle, coarse = laplacian_pyramid(ramp, 16)
    assert fine[..., 8:-8, 8:-8].abs().max() < 1e-5 and middle[..., 8:-8, 8:-8].abs().max() < 1e-5
    assert coarse.abs().max() > 0.9


@pytest.mark.parametrize('other', [500, 300])
def test_one_dimension_equals_scipy(other):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(500, 1, generator=generator), 1.5 * torch.randn(other, 1, generator=generator) + 0.5
    expected = scipy.stats.wasserstein_distance(a[:, 0].numpy(), b[:, 0].numpy())
    # For sets of unequal size the quantiles are interpolated.
    found = sliced_wasserstein(a, b, torch.ones(1, 1)).item()
    assert found == pytest.approx(expected, rel=1e-5 if other == 500 else 0.03)


def test_loss_of_contrast_shows_because_the_reference_normalises():
    # White noise at half the amplitude: every normalised, projected patch has std 1 against 0.5, so
    # W1 = 0.5 * E|N(0, 1)| = 0.399. Normalising each set by itself would give zero.
    x = torch.randn(300, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    metric = LaplacianSWD(patches_per_image=32)
    metric.update(x, real=True)
    metric.update(0.5 * x, real=False)
    assert metric.compute()['swd/16'] == pytest.approx(1000 * 0.5 * (2 / torch.pi)**0.5, rel=0.03)


def test_levels_are_named_by_size_and_small_images_use_small_patches():
    metric = LaplacianSWD()
    for real in (True, False):
        metric.update(torch.randn(3, 3, 64, 64), real)
    assert list(metric.compute()) == ['swd/64', 'swd/32', 'swd/16', 'swd/mean']
    small = LaplacianSWD()
    for real in (True, False):
        small.update(torch.randn(4, 3, 6, 6), real)
    assert small.rows(True)['6'].shape == (4, 1, 3, 36)
    assert small.compute()['swd/6'] > 0


def test_identical_sets_have_distance_zero_and_bad_arguments_are_named():
    x = torch.randn(5, 3, 16, 16)
    metric = LaplacianSWD()
    metric.update(x, real=True)
    metric.update(x, real=False)
    assert metric.compute() == {'swd/16': 0.0, 'swd/mean': 0.0}
    with pytest.raises(ValueError, match='projections=0'):
        LaplacianSWD(projections=0)
