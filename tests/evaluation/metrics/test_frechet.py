import numpy as np
import pytest
import scipy.linalg
import torch

from slimdiff.evaluation.metrics.frechet import FrechetDistance, frechet_distance, gaussian_moments, sqrt_psd


def random_covariance(dimension: int, rank: int, seed: int) -> torch.Tensor:
    factor = torch.randn(dimension, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return factor @ factor.t() / rank


def test_closed_form_of_commuting_gaussians():
    # Diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2.
    m1, m2 = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.0, 0.0, 0.5])
    s1, s2 = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 0.5])
    expected = 5.0 + (1.0 + 0.0 + 6.25)
    assert frechet_distance(m1, s1.square().diag(), m2, s2.square().diag()).item() == pytest.approx(expected)


@pytest.mark.parametrize('rank', [20, 5])
def test_equals_scipy_also_with_singular_covariances(rank):
    c1, c2 = random_covariance(12, rank, 0), random_covariance(12, rank, 1)
    mean = torch.zeros(12)
    root = scipy.linalg.sqrtm((c1 + 1e-12 * torch.eye(12)).numpy() @ c2.numpy())
    expected = (c1 + c2).trace().item() - 2 * np.trace(np.real(root))
    assert frechet_distance(mean, c1, mean, c2).item() == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(mean, c1, mean, c1).item() == pytest.approx(0, abs=1e-9)


def test_root_and_moments():
    c = random_covariance(8, 30, 2)
    torch.testing.assert_close(sqrt_psd(c) @ sqrt_psd(c), c)
    x = torch.randn(50, 4)
    mean, cov = gaussian_moments(x)
    torch.testing.assert_close(cov.numpy(), np.cov(x.numpy(), rowvar=False), check_dtype=False)
    assert mean.dtype == cov.dtype == torch.float64


def test_distance_of_gaussian_samples_with_a_plugged_in_extractor():
    class Pixels(torch.nn.Module):
        def forward(self, images):
            return images.flatten(1)

    generator = torch.Generator().manual_seed(0)
    metric = FrechetDistance(extractor=Pixels(), prefix='pixels')
    metric.update(torch.randn(20_000, 3, 1, 1, generator=generator), real=True)
    metric.update(2 * torch.randn(20_000, 3, 1, 1, generator=generator) + 1, real=False)
    assert metric.compute()['pixels'] == pytest.approx(3 * (1 + 1), rel=0.03)


def test_misspelt_extractor_is_named():
    with pytest.raises(ValueError, match='RandomConvExtractor'):
        FrechetDistance(extractor=dict(type='RandomConvExtracter'))


def warnings_of(metric, real, generated, monkeypatch):
    found = []
    monkeypatch.setattr('slimdiff.evaluation.metrics.frechet.print_log', lambda text, **_: found.append(text))
    for _ in range(2):  # as often as the floor asks: one warning
        metric.distance(dict(features=torch.randn(real, 3)), dict(features=torch.randn(generated, 3)))
    return found


@pytest.mark.parametrize('real, generated', [(3, 50), (50, 2)])
def test_fewer_images_than_features_are_warned_of_once(real, generated, monkeypatch):
    text, = warnings_of(FrechetDistance(), real, generated, monkeypatch)
    assert f'{real} real and {generated} generated images are too few for 3 features' in text
    assert 'At least 4 of each are needed (num_real, num_images)' in text


def test_enough_images_are_not_warned_of(monkeypatch):
    assert warnings_of(FrechetDistance(), 4, 4, monkeypatch) == []
