import numpy as np
import pytest
import torch

from slimdiff.functional.spectral_weight import half_spectrum_counts, spectral_weight, weighted_spectral_error


def full_weight(source, alpha, floor, normalize):
    """Brute force over the full spectrum, sample by sample, in numpy: (N, H, W)."""
    out = []
    for sample in source.double().numpy():
        amplitude = np.abs(np.fft.fft2(sample, norm='ortho')).mean(0)
        amplitude = np.maximum(amplitude, floor * np.sqrt((amplitude**2).mean()))
        weight = amplitude**alpha
        out.append(weight / weight.mean() if normalize else weight)
    return np.stack(out)


@pytest.mark.parametrize('size', [(6, 6), (5, 7), (4, 9)])
def test_counts_add_up_to_the_full_spectrum(size):
    height, width = size
    counts = half_spectrum_counts(width, torch.zeros(()))
    assert counts.sum() * height == height * width
    assert half_spectrum_counts(4, torch.zeros(())).tolist() == [1, 2, 1]
    assert half_spectrum_counts(5, torch.zeros(())).tolist() == [1, 2, 2]


@pytest.mark.parametrize('size', [(8, 8), (5, 7), (16, 20)])
@pytest.mark.parametrize('alpha, floor, normalize', [(-1, 0.01, True), (-1, 0.5, False), (-0.5, 1e-3, True),
                                                     (1, 0.1, True), (0, 0.01, False)])
def test_weight_against_the_full_spectrum(size, alpha, floor, normalize):
    source = torch.randn(3, 2, *size)
    half = spectral_weight(source, alpha, floor, normalize)
    full = full_weight(source, alpha, floor, normalize)
    assert half.shape == (3, 1, size[0], size[1] // 2 + 1)
    np.testing.assert_allclose(half[:, 0].numpy(), full[..., :size[1] // 2 + 1], rtol=2e-4)
    difference = torch.randn(3, 4, *size)
    power = np.abs(np.fft.fft2(difference.double().numpy(), norm='ortho'))**2
    expected = (power * full[:, None]).mean()
    assert weighted_spectral_error(difference, half).item() == pytest.approx(expected, rel=1e-4)


def test_a_single_frequency_by_hand():
    # cos(2 pi x / 4) on 4x4: two of the 16 frequencies hold |F| = 2 each (orthonormal: 16 * 0.5 / 4); rms = sqrt(8/16).
    x = torch.cos(torch.pi / 2 * torch.arange(4)).expand(1, 1, 4, 4)
    weight = spectral_weight(x, alpha=-1, floor=0.1, normalize=False)
    floor = 0.1 * 0.5**0.5
    expected = torch.full((1, 1, 4, 3), 1 / floor)
    expected[0, 0, 0, 1] = 0.5
    torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-5)
    normalized = spectral_weight(x, alpha=-1, floor=0.1)
    mean = (14 / floor + 2 * 0.5) / 16
    assert normalized[0, 0, 0, 1].item() == pytest.approx(0.5 / mean, rel=1e-5)


def test_weights_of_one_are_the_mean_square():
    difference = torch.randn(2, 3, 5, 6)
    expected = difference.square().mean()
    torch.testing.assert_close(weighted_spectral_error(difference), expected)
    weight = spectral_weight(torch.randn(2, 3, 5, 6), alpha=0)
    torch.testing.assert_close(weight, torch.ones_like(weight))
    torch.testing.assert_close(weighted_spectral_error(difference, weight), expected)


@pytest.mark.parametrize('size', [(6, 5), (4, 8), (16, 16), (18, 17)])  # by a matrix, the last by FFT
def test_gradient_by_autograd_over_the_full_spectrum(size):
    difference = torch.randn(2, 3, *size, dtype=torch.double, requires_grad=True)
    source = torch.randn(2, 3, *size, dtype=torch.double)
    full = torch.from_numpy(full_weight(source, -1, 0.01, True))[:, None]
    expected, = torch.autograd.grad((full * torch.fft.fft2(difference, norm='ortho').abs()**2).mean(), difference)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = difference.detach().contiguous(memory_format=layout).requires_grad_()
        value = weighted_spectral_error(x, spectral_weight(source))
        torch.testing.assert_close(torch.autograd.grad(value, x)[0], expected)
        torch.testing.assert_close(value.detach(), weighted_spectral_error(x.detach(), spectral_weight(source)))


def test_contrast_does_not_change_a_normalized_weight():
    source = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(spectral_weight(source), spectral_weight(1e-3 * source), rtol=1e-4, atol=1e-4)


def test_a_black_image_weighs_every_frequency_alike():
    weight = spectral_weight(torch.zeros(2, 3, 4, 4))
    torch.testing.assert_close(weight, torch.ones_like(weight))


def test_no_gradient_and_float32_under_autocast():
    source = torch.randn(2, 3, 8, 8, requires_grad=True)
    assert not spectral_weight(source).requires_grad
    difference = torch.randn(2, 3, 8, 8)
    with torch.autocast('cpu', torch.bfloat16):
        weight = spectral_weight(source.bfloat16())
        value = weighted_spectral_error(difference, weight)
    assert weight.dtype == value.dtype == torch.float32
    torch.testing.assert_close(value, weighted_spectral_error(difference, spectral_weight(source.bfloat16().float())))


@pytest.mark.parametrize('floor', [0, -1.0])
def test_floor_must_be_positive(floor):
    with pytest.raises(ValueError, match='floor must be positive, got'):
        spectral_weight(torch.zeros(1, 1, 4, 4), floor=floor)
