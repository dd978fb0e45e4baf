import pickle

import numpy as np
import pytest
import torch

from slimdiff.models.losses import SpatialLoss, SpectralLoss


def brute_force(student, teacher, source, alpha=-1.0, floor=0.01, normalize=True):
    """Full fft2 in numpy, sample by sample."""
    total = 0.
    for s, t, x in zip(student.double().numpy(), teacher.double().numpy(), source.double().numpy()):
        amplitude = np.abs(np.fft.fft2(x, norm='ortho')).mean(0)
        weight = np.maximum(amplitude, floor * np.sqrt((amplitude**2).mean()))**alpha
        if normalize:
            weight = weight / weight.mean()
        total += (weight * np.abs(np.fft.fft2(t, norm='ortho') - np.fft.fft2(s, norm='ortho'))**2).mean()
    return total / len(student)


@pytest.fixture
def maps():
    return torch.randn(2, 5, 6, 6), torch.randn(2, 5, 6, 6), torch.randn(2, 3, 6, 6)


@pytest.mark.parametrize('settings', [dict(), dict(alpha=-0.5), dict(alpha=1.0), dict(floor=0.8),
                                      dict(normalize=False, floor=0.3)])
@pytest.mark.parametrize('source', ['input', 'teacher'])
def test_against_the_full_spectrum(maps, settings, source):
    student, teacher, x0 = maps
    expected = brute_force(student, teacher, x0 if source == 'input' else teacher, **settings)
    assert SpectralLoss(source=source, **settings)(student, teacher, x0).item() == pytest.approx(expected, rel=1e-4)


def test_one_frequency_by_hand():
    """A constant image: only frequency 0 is in it, so an error there weighs least; the floor says how much less."""
    x0 = torch.ones(1, 1, 2, 2)  # |F| = 2 at frequency 0, rms 1; floor .5: w = 1/2 there, 2 at the other three
    mean = (0.5 + 3 * 2) / 4
    loss = SpectralLoss(floor=0.5)
    zero, constant = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    stripes = torch.tensor([[[[1., -1.], [1., -1.]]]])  # of the same energy, at one high frequency
    assert loss(constant, zero, x0).item() == pytest.approx(0.5 / mean * 4 / 4)
    assert loss(stripes, zero, x0).item() == pytest.approx(2 / mean * 4 / 4)


def test_alpha_zero_is_the_spatial_loss(maps):
    torch.testing.assert_close(SpectralLoss(alpha=0)(*maps), SpatialLoss()(*maps))


def test_relative(maps):
    student, teacher, x0 = maps
    expected = brute_force(student, teacher, x0) / brute_force(torch.zeros_like(teacher), teacher, x0)
    assert SpectralLoss(relative=True)(student, teacher, x0).item() == pytest.approx(expected, rel=1e-4)


def test_the_input_is_resized_to_the_tap(maps):
    student, teacher, _ = maps
    x0 = torch.randn(2, 3, 12, 12)
    small = torch.nn.functional.interpolate(x0, (6, 6), mode='bilinear', antialias=True)
    expected = brute_force(student, teacher, small)
    assert SpectralLoss()(student, teacher, x0).item() == pytest.approx(expected, rel=1e-4)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r'SpectralLoss: floor must be positive, got 0'):
        SpectralLoss(floor=0)
    with pytest.raises(ValueError, match=r"source='teecher' is unknown. Did you mean 'teacher'.*input, teacher"):
        SpectralLoss(source='teecher')


def test_it_is_copied_and_pickled_and_runs_in_inference_mode(maps):
    loss = SpectralLoss()
    expected = loss(*maps)
    assert torch.equal(pickle.loads(pickle.dumps(loss))(*maps), expected)
    with torch.inference_mode():
        assert torch.equal(loss(*(x.clone() for x in maps)), expected)
