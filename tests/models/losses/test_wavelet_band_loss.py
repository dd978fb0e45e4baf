import numpy as np
import pytest
import pywt
import torch

from slimdiff.models.losses import WaveletBandLoss


def brute_force(difference, wavelet, weights):
    total = 0.
    low, (horizontal, vertical, diagonal) = pywt.dwt2(difference.double().numpy(), wavelet, mode='periodization')
    for weight, band in zip(weights, (low, horizontal, vertical, diagonal)):
        total += weight * np.abs(band).mean()
    return total


@pytest.mark.parametrize('wavelet', ['haar', 'db2', 'bior2.2'])
@pytest.mark.parametrize('weights', [(0, 1, 1, 1), (1, 0.5, 0, 2)])
def test_against_pywavelets(wavelet, weights):
    student, teacher = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    got = WaveletBandLoss(wavelet=wavelet, band_weights=weights)(student, teacher, teacher)
    assert got.item() == pytest.approx(brute_force(teacher - student, wavelet, weights), rel=1e-4)


def test_by_hand():
    zero = torch.zeros(1, 1, 2, 2)
    loss = WaveletBandLoss()
    assert loss(torch.ones(1, 1, 2, 2), zero, zero).item() == pytest.approx(0)  # all of it is low frequency
    # Haar of [[3, 1], [1, 1]]: cA = 3, and each detail band is (+-3 +-1 +-1 +-1) / 2 = 1 in modulus.
    student = torch.tensor([[[[3., 1.], [1., 1.]]]])
    assert loss(student, zero, zero).item() == pytest.approx(3)
    assert WaveletBandLoss(band_weights=(1, 0, 0, 0.5))(student, zero, zero).item() == pytest.approx(3.5)


@pytest.mark.parametrize('settings, message', [
    (dict(band_weights=(1, 1, 1)), r'band_weights=\[1, 1, 1\] must be four numbers'),
    (dict(band_weights=(0, -1, 1, 1)), 'at least 0'),
    (dict(band_weights=(0, 0, 0, 0)), 'not all 0'),
    (dict(wavelet='har'), 'haar'),
])
def test_bad_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        WaveletBandLoss(**settings)


def test_an_odd_tap_is_named():
    with pytest.raises(ValueError, match='5'):
        WaveletBandLoss()(torch.zeros(1, 1, 5, 4), torch.zeros(1, 1, 5, 4), torch.zeros(1, 1, 5, 4))
