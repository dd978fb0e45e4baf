"""The weight of the spectrum-aware loss, and frequency-weighted squared errors (Yang et al. 2023).

All DFTs are orthonormal. Maps are real, so their spectrum is symmetric: half of it (``rfft2``) is computed, and its
columns count twice where their mirror image was left out.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Maps of at most so many points are transformed by a matrix product.
HARTLEY_POINTS = 256


def half_spectrum_counts(width: int, like: Tensor) -> Tensor:
    """How often each column of ``rfft2`` occurs in the full spectrum, (width // 2 + 1,): 1 or 2."""
    columns = torch.arange(width // 2 + 1, device=like.device)
    mirrored = (columns > 0) & (2 * columns != width)
    return 1 + mirrored.to(like.dtype)


def spectral_weight(source: Tensor, alpha: float = -1.0, floor: float = 0.01, normalize: bool = True) -> Tensor:
    """w = |F source|^alpha over the half spectrum, (N, C, H, W) -> (N, 1, H, W // 2 + 1), without gradient.

    The paper writes w = |F x0|^alpha with alpha = -1: a frequency counts the more, the less of it the image holds.
    It leaves three things open, which are settled thus:

    * *channels*: the mean of |F| over the channels, so one weight meets features of any number of channels;
    * *small values*: |F| is not taken below ``floor`` times its root mean square over the sample's frequencies (an
      absolute floor would depend on the contrast of the image);
    * *scale*: with ``normalize`` the weights of a sample have mean 1 over all frequencies, so that
      lambda_f and lambda_s are on one scale, and ``alpha=0`` is the plain squared error.

    Raises:
        ValueError: ``floor`` is not positive.
    """
    if floor <= 0:
        raise ValueError(f'floor must be positive, got {floor}: a frequency that an image lacks would weigh '
                         'infinitely much.')
    with torch.no_grad(), torch.autocast(source.device.type, enabled=False):
        width = source.shape[-1]
        source = source.to(torch.promote_types(source.dtype, torch.float32))
        amplitude = torch.fft.rfft2(source, norm='ortho').abs().mean(1, keepdim=True)
        counts = half_spectrum_counts(width, amplitude)
        points = source.shape[-2] * width
        rms = ((amplitude.square() * counts).sum((2, 3), keepdim=True) / points).sqrt()
        # An image that is zero everywhere has no spectrum to speak of: every frequency weighs the same.
        weight = amplitude.clamp_min(1e-12).maximum(floor * rms)**alpha
        if normalize:
            weight = weight * points / (weight * counts).sum((2, 3), keepdim=True)
        return weight


def weighted_spectral_error(difference: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean of w |F difference|^2 over samples, channels and frequencies: a scalar.

    Without weight, or with weights of 1, it is the mean square of ``difference`` (Parseval).

    Args:
        difference: (N, C, H, W), real.
        weight: (N, 1, H, W // 2 + 1), from :func:`spectral_weight`; without gradient.
    """
    with torch.autocast(difference.device.type, enabled=False):
        # cuFFT and MKL have no bf16; double stays double.
        difference = difference.to(torch.promote_types(difference.dtype, torch.float32))
        return difference.square().mean() if weight is None else _WeightedSpectralError.apply(difference, weight)


@functools.lru_cache(maxsize=16)
def _hartley(height: int, width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """The orthonormal 2-D Hartley transform as a matrix (HW, HW), its own inverse; and where in the half spectrum each
    of its frequencies lies, (HW,)."""
    points = torch.arange(height * width)
    u, v = points // width, points % width
    # The phase in whole turns, reduced before it is rounded.
    turns = (u[:, None] * u * width + v[:, None] * v * height) % (height * width)
    angle = turns.double() * (2 * math.pi / (height * width))
    mirrored = v > width // 2
    row, column = torch.where(mirrored, -u % height, u), torch.where(mirrored, width - v, v)
    matrix = (angle.cos() + angle.sin()) / math.sqrt(height * width)
    return matrix.to(device, dtype), (row * (width // 2 + 1) + column).to(device)


class _WeightedSpectralError(torch.autograd.Function):
    """With g = F^-1 w F d the mean is <d, g> / n (F is unitary) and its gradient 2 g / n.

    Autograd would keep the spectrum and its powers, and transform once more, in complex numbers. For symmetric weights
    the Hartley transform, which is real, gives the same as F; on small maps one product with its matrix is twice as
    fast as an FFT, and needs no change of layout.
    """

    @staticmethod
    def forward(ctx: Any, difference: Tensor, weight: Tensor) -> Tensor:
        samples, channels, height, width = difference.shape
        if height * width <= HARTLEY_POINTS:
            matrix, where = _hartley(height, width, difference.dtype, difference.device)
            full = weight.flatten(1)[:, where, None]  # (N, HW, 1)
            spectrum = matrix @ difference.permute(0, 2, 3, 1).reshape(samples, height * width, channels)
            if not ctx.needs_input_grad[0]:
                return spectrum.square_().mul_(full).mean()
            filtered = matrix @ spectrum.mul_(full)
            filtered = filtered.view(samples, height, width, channels).permute(0, 3, 1, 2)
        else:
            spectrum = torch.fft.rfft2(difference, norm='ortho')
            if not ctx.needs_input_grad[0]:
                power = torch.view_as_real(spectrum).square_().sum(-1)
                return power.mul_(weight * half_spectrum_counts(width, power)).sum() / difference.numel()
            filtered = torch.fft.irfft2(spectrum.mul_(weight), s=(height, width), norm='ortho')
            if difference.is_contiguous(memory_format=torch.channels_last):  # as the layers before it want it back
                filtered = filtered.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(filtered)
        return (difference * filtered).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        filtered, = ctx.saved_tensors
        return filtered * (gradient * (2 / filtered.numel())), None
