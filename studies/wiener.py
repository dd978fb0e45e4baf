"""The linear denoiser as a Wiener filter (Yang et al. 2023, section 4.1; supplement, section 1), errata included.

For ``x_t = sqrt(a) x0 + sqrt(1 - a) eps``, where a is the cumulative alpha of step t, x0 is stationary with power
spectrum S(f) = E|F x0|^2 (orthonormal DFT) and eps is white with power 1, the linear filter that best predicts *eps*
minimises ``E|H F x_t - F eps|^2`` at each frequency. Setting the derivative to zero,

    H_t(f) = sqrt(1 - a) / (a S(f) + 1 - a),

because the cross spectrum of eps and x_t is sqrt(1 - a), not 1.

Errata of the supplement:

- **Eq. 10** has 1 in the numerator. It lacks the factor sqrt(1 - a): it would be the filter for eps in units in which
  the noise of x_t has standard deviation 1.
- **Eq. 13 = Eq. 14** does not hold as written. With P = |X|^2, noise power sigma^2 and the *amplitude* ratio
  SNR = |X| / sigma, Eq. 13 is P sigma^2 / (P + sigma^2) = |X| sigma / (SNR + 1 / SNR). So it equals Eq. 14 only after
  division by |X| sigma; with SNR a ratio of powers it does not even then.
- Hence the error of eps itself has no maximum at SNR = 1. It is SNR^2 / (1 + SNR^2), which rises all the way, while
  the relative error of the signal, 1 / (1 + SNR^2), falls all the way. The g of Eq. 14 is their geometric mean, and
  g^2 is half the rate at which the recovered share changes with log SNR: it says *when a frequency is decided*.

The tests prove each of these on a Gaussian random field. Here a is written ``alpha_bar``, and SNR is always the
ratio of amplitudes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from slimdiff.functional.spectrum import radial_frequency


def snr(spectrum: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """Amplitude ratio of signal to noise in x_t, sqrt(a S / (1 - a)); shapes broadcast."""
    return (alpha_bar * spectrum / (1 - alpha_bar)).sqrt()


def noise_filter(spectrum: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """H_t(f) = sqrt(1 - a) / (a S + 1 - a), the best linear prediction of eps from x_t."""
    return (1 - alpha_bar) ** 0.5 / (alpha_bar * spectrum + 1 - alpha_bar)


def signal_filter(spectrum: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """sqrt(a) S / (a S + 1 - a), the best linear prediction of x0 from x_t."""
    return alpha_bar ** 0.5 * spectrum / (alpha_bar * spectrum + 1 - alpha_bar)


def supplement_filter(spectrum: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """Eq. 10 as it is printed, 1 / (a S + 1 - a); kept to show by how much it is off."""
    return 1 / (alpha_bar * spectrum + 1 - alpha_bar)


def noise_error(ratio: Tensor) -> Tensor:
    """E|eps_hat - eps|^2 of :func:`noise_filter` at amplitude ratio ``ratio``: SNR^2 / (1 + SNR^2).

    It is also the share of the signal's power that the estimate of x0 holds (:func:`recovered_share`): what can be
    told of the noise is what is not taken for signal.
    """
    return ratio.square() / (1 + ratio.square())


recovered_share = noise_error


def signal_error(ratio: Tensor) -> Tensor:
    """E|x0_hat - x0|^2 / S of :func:`signal_filter`: 1 / (1 + SNR^2)."""
    return 1 / (1 + ratio.square())


def g(ratio: Tensor) -> Tensor:
    """Eq. 14, 1 / (1 / SNR + SNR): 1/2 at SNR = 1, and less on both sides."""
    return ratio / (1 + ratio.square())


def additive_error(spectrum: Tensor, sigma2: Tensor | float) -> Tensor:
    """Eq. 13, S sigma^2 / (S + sigma^2): error of the best linear filter for ``x + eps`` with noise power sigma^2."""
    return spectrum * sigma2 / (spectrum + sigma2)


def recovered_frequency(alpha_bar: Tensor, beta: float, scale: float = 1.0) -> Tensor:
    """Frequency up to which a linear denoiser recovers at least half the power, for S(f) = scale f^-beta.

    Half is at SNR = 1: f = (scale a / (1 - a))^(1 / beta). It falls with noise: low frequencies come first when
    sampling. Unit of f as in S.

    Raises:
        ValueError: a beta or scale that is not above 0.
    """
    if beta <= 0 or scale <= 0:
        raise ValueError(f'recovered_frequency: beta={beta} and scale={scale} must be above 0; a flat spectrum is '
                         'recovered at all frequencies at once.')
    return (scale * alpha_bar / (1 - alpha_bar)) ** (1 / beta)


def power_law_spectrum(size: int, beta: float) -> Tensor:
    """S(f) of 1/f^beta over the (size, size) plane in FFT order, float64, mean 1 (unit variance of a pixel).

    Zero frequency has the power of the lowest ring, 1 / size.

    Raises:
        ValueError: a size below 4 or a negative beta.
    """
    if size < 4 or beta < 0:
        raise ValueError(f'power_law_spectrum: size={size} must be at least 4 and beta={beta} not negative.')
    spectrum = radial_frequency(size, size).clamp_min(1 / size) ** -beta
    return spectrum / spectrum.mean()


def gaussian_field(spectrum: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Gaussian random fields of a power spectrum (H, W), (count, H, W) float32: white noise, filtered by sqrt(S)."""
    white = torch.fft.rfft2(torch.randn(count, *spectrum.shape, generator=generator))
    return torch.fft.irfft2(white * spectrum[:, :white.shape[-1]].sqrt().float(), s=spectrum.shape)


def energy_band(spectrum: Tensor, share: float = 0.95) -> Tensor:
    """Mask, shape of ``spectrum``, of the fewest frequencies that hold at least ``share`` of the power.

    Raises:
        ValueError: a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f'energy_band: share={share} must lie above 0 and at most at 1.')
    values, order = spectrum.flatten().sort(descending=True, stable=True)
    before = (values.cumsum(0) - values) / values.sum()
    mask = torch.zeros(spectrum.numel(), dtype=torch.bool)
    mask[order[before < share - 1e-12]] = True
    return mask.view(spectrum.shape)


class CircularFilter(nn.Module):
    """One circular convolution per timestep, its kernel as large as the image, parametrised by its DFT.

    Nothing is known to it: the gains are free complex numbers, one for each frequency (those of a real kernel: half
    the plane), and start at zero. In frequency, because there Adam's step size per parameter fits each frequency's
    curvature a S + 1 - a; over the weights of the kernel in space the same problem has the condition number
    max(a S + 1 - a) / (1 - a).

    Args:
        size: of the image, pixels.
        steps: number of timesteps, T filters.
    """

    def __init__(self, size: int, steps: int) -> None:
        super().__init__()
        self.size = size
        self.gain = nn.Parameter(torch.zeros(steps, size, size // 2 + 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        """(T, N, size, size) -> same shape; filter t works on x[t]."""
        gain = torch.view_as_complex(self.gain)[:, None]
        return torch.fft.irfft2(torch.fft.rfft2(x) * gain, s=(self.size, self.size))

    def response(self) -> Tensor:
        """Gains over the whole plane, (T, size, size) complex, in FFT order."""
        kernel = torch.fft.irfft2(torch.view_as_complex(self.gain.detach().double()), s=(self.size, self.size))
        return torch.fft.fft2(kernel)


def antithetic_loss(gain: Tensor, alpha_bars: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
    """Mean squared error of the predicted noise over fields that each come with +eps and with -eps, (T,).

    By Parseval, and because the product of signal and noise cancels between the two signs, it is the mean over
    frequencies of ``a |H|^2 |F x0|^2 + |sqrt(1 - a) H - 1|^2 |F eps|^2``: exactly what filtering both noisy fields
    and comparing pixels would give, at a fraction of the work.

    Args:
        gain: H, (T, size, size // 2 + 1) complex, half of the plane.
        alpha_bars: (T,).
        x0, eps: (N, size, size).
    """
    signal, noise = (torch.fft.rfft2(v, norm='ortho').abs().square().mean(0) for v in (x0, eps))
    weight = torch.full_like(signal, 2.0)  # a coefficient within the half plane stands for its conjugate too
    weight[:, 0] = 1
    if x0.shape[-1] % 2 == 0:
        weight[:, -1] = 1
    a = alpha_bars.to(signal).view(-1, 1, 1)
    real, imaginary = gain.real, gain.imag
    power = a * (real.square() + imaginary.square()) * signal
    power = power + (((1 - a).sqrt() * real - 1).square() + (1 - a) * imaginary.square()) * noise
    return (weight * power).sum((1, 2)) / x0[0].numel()


def train_filter(spectrum: Tensor, alpha_bars: Sequence[float], iterations: int = 2000, batch_size: int = 64,
                 lr: float = 0.01, seed: int = 0, on_step: Callable[[], None] | None = None) -> CircularFilter:
    """Train a :class:`CircularFilter` to predict eps on Gaussian fields of a spectrum; Adam, cosine decay to zero.

    Every field comes with its noise and with the noise's negative (antithetic draws): the product of signal and
    noise, whose mean is zero but whose spread hides the small gains of strong frequencies, then cancels.

    Args:
        spectrum: (size, size), FFT order.
        alpha_bars: of the T timesteps, each in (0, 1).
        iterations, batch_size, lr: Adam on batches of so many fields, each twice.
        seed: of fields and noise.

    Raises:
        ValueError: an alpha_bar outside (0, 1), or no iteration.
    """
    a = torch.tensor(list(alpha_bars), dtype=torch.float64)
    if not len(a) or a.min() <= 0 or a.max() >= 1 or min(iterations, batch_size) < 1:
        raise ValueError(f'train_filter: alpha_bars={list(alpha_bars)} must lie in (0, 1), and iterations={iterations}'
                         f' and batch_size={batch_size} be at least 1.')
    generator = torch.Generator().manual_seed(seed)
    model = CircularFilter(spectrum.shape[-1], len(a))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, 0.99))
    decay = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: 0.5 * (1 + math.cos(math.pi * min(i / iterations, 1))))
    for _ in range(iterations):
        x0 = gaussian_field(spectrum, batch_size, generator)
        eps = torch.randn(x0.shape, generator=generator)
        loss = antithetic_loss(torch.view_as_complex(model.gain), a, x0, eps).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        if on_step is not None:
            on_step()
    return model


def relative_error(response: Tensor, expected: Tensor, band: Tensor) -> Tensor:
    """Root mean square over a band of |H / H* - 1|: every frequency of the band counts alike; (..., H, W) -> (...)."""
    deviation = (response / expected - 1).abs().square()
    return deviation[..., band].mean(-1).sqrt()
