import math

import numpy as np
import pytest
import torch

from slimdiff.functional.spectrum import (
    band_energy,
    band_masks,
    num_rings,
    power_spectrum,
    radial_bins,
    radial_frequency,
    radial_spectrum,
)


@pytest.mark.parametrize('size', [(32, 32), (16, 24), (7, 9), (1, 8)])
def test_radial_spectrum_equals_a_brute_force_loop(size):
    h, w = size
    x = torch.randn(2, 3, h, w, dtype=torch.float64)
    power = np.abs(np.fft.fft2(x.numpy(), norm='ortho'))**2
    n = min(h, w)
    sums, counts = np.zeros((2, 3, n // 2 + 1)), np.zeros(n // 2 + 1)
    for i in range(h):
        for j in range(w):
            fy, fx = (i if i < (h + 1) // 2 else i - h) / h, (j if j < (w + 1) // 2 else j - w) / w
            ring = max(0, int(np.round(math.hypot(fy, fx) * n - 1e-9)))
            if ring <= n // 2:
                sums[..., ring] += power[..., i, j]
                counts[ring] += 1
    torch.testing.assert_close(radial_spectrum(x), torch.from_numpy(sums / counts), rtol=1e-10, atol=1e-12)
    assert radial_spectrum(x).shape[-1] == num_rings(h, w)


def test_a_plane_wave_lies_in_its_ring_and_band():
    n = 32
    wave = math.sqrt(2) * torch.cos(2 * math.pi * 5 * torch.arange(n, dtype=torch.float64) / n).expand(1, 1, n, n)
    spectrum = radial_spectrum(wave)[0, 0]
    count = int((radial_bins(n, n) == 5).sum())
    # The wave has mean square 1, so power n * n in two coefficients of ring 5.
    assert spectrum[5].item() == pytest.approx(n * n / count)
    assert spectrum.sum().item() == pytest.approx(spectrum[5].item())
    energy = band_energy(wave, band_masks(n, n, (0.125, 0.25)))
    torch.testing.assert_close(energy, torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64), atol=1e-12, rtol=0)


def test_white_noise_has_a_flat_spectrum_of_its_variance():
    x = 2 * torch.randn(400, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(radial_spectrum(x).mean((0, 1)), torch.full((9,), 4.0), rtol=0.1, atol=0)


@pytest.mark.parametrize('size', [(32, 32), (15, 20)])
def test_bands_are_a_partition_and_obey_parseval(size):
    masks = band_masks(*size, (0.1, 0.2, 0.4))
    assert masks.shape == (4, *size)
    assert (masks.sum(0) == 1).all()
    x = torch.randn(5, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(band_energy(x, masks).sum(1), x.square().mean((1, 2, 3)))
    torch.testing.assert_close(power_spectrum(x).sum((-2, -1)), x.square().sum((-2, -1)))


def test_a_frequency_on_an_edge_belongs_to_the_upper_band():
    masks = band_masks(32, 32, (0.125, 0.25))
    assert masks[2, 0, 8] and masks[1, 0, 7] and masks[1, 4, 0] and masks[0, 0, 0]
    assert radial_frequency(32, 32)[0, 16].item() == 0.5


@pytest.mark.parametrize('edges', [(0.25, 0.125), (0.2, 0.2), (0.0, 0.2), (0.2, 0.9)])
def test_bad_edges_are_named(edges):
    with pytest.raises(ValueError, match='edges of frequency bands'):
        band_masks(8, 8, edges)


def test_bfloat16_is_computed_in_float32():
    x = torch.randn(1, 1, 8, 8).bfloat16()
    assert power_spectrum(x).dtype == torch.float32
