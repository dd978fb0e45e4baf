"""Radial spectra of images: azimuthal averages of |FFT|^2 and partitions of the frequency plane.

Everywhere the 2-D DFT is orthonormal (``norm='ortho'``), so by Parseval the sum of |F x|^2 over frequencies
equals the sum of x^2 over pixels. Frequencies are in cycles per pixel: 0.5 is Nyquist along an axis and
sqrt(0.5) the corner of the plane.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def radial_frequency(height: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """Distance from zero frequency of every DFT coefficient, (H, W), cycles per pixel, in FFT order."""
    fy = torch.fft.fftfreq(height, dtype=torch.float64, device=device)
    fx = torch.fft.fftfreq(width, dtype=torch.float64, device=device)
    return torch.hypot(fy[:, None], fx[None, :])


def radial_bins(height: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """Ring index of every DFT coefficient, (H, W) int64.

    Ring k holds the frequencies nearest to k cycles per min(H, W) pixels. Rings 0 ... min(H, W) // 2 are complete;
    those above lie in the corners of the plane only.
    """
    # A tiny shift so that a frequency half way between two rings goes to the same one on every machine.
    return torch.round(radial_frequency(height, width, device) * min(height, width) - 1e-9).clamp_min(0).long()


def num_rings(height: int, width: int) -> int:
    """Number of complete rings, zero frequency included."""
    return min(height, width) // 2 + 1


def power_spectrum(x: Tensor) -> Tensor:
    """|F x|^2 over the last two dimensions, same shape, real; half precision is computed in float32."""
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    spectrum = torch.fft.fft2(x, norm='ortho')
    return spectrum.real.square() + spectrum.imag.square()


def radial_spectrum(x: Tensor) -> Tensor:
    """Azimuthal average of the power spectrum, (..., H, W) -> (..., min(H, W) // 2 + 1).

    The corners beyond the last complete ring are left out, as usual (Durall et al. 2020, eq. 2).
    """
    height, width = x.shape[-2:]
    rings = num_rings(height, width)
    bins = radial_bins(height, width, x.device).flatten()
    inside = bins < rings
    bins = bins[inside]
    power = power_spectrum(x).flatten(-2)[..., inside]
    total = power.new_zeros(*power.shape[:-1], rings).index_add_(-1, bins, power)
    return total / torch.bincount(bins, minlength=rings).to(total)


def band_masks(height: int, width: int, edges: Sequence[float], device: torch.device | str | None = None) -> Tensor:
    """Partition of the frequency plane in rings, (len(edges) + 1, H, W) bool.

    Band b holds edges[b-1] <= f < edges[b] in cycles per pixel; the first begins at 0 and the last ends in the
    corners, so that every coefficient is in exactly one band.

    Raises:
        ValueError: edges that do not rise strictly within (0, sqrt(0.5)).
    """
    edges = list(edges)
    if edges != sorted(set(edges)) or any(not 0 < edge < 0.5**0.5 for edge in edges):
        raise ValueError(f'edges of frequency bands: got {edges}; they must rise strictly between 0 and 0.707 '
                         'cycles per pixel, e.g. (0.125, 0.25).')
    # The same tiny shift as above: 8/32 of a cycle is in the band that begins at 0.25.
    frequency = radial_frequency(height, width, device) + 1e-9
    index = torch.bucketize(frequency, torch.tensor(edges, dtype=torch.float64, device=device), right=True)
    return index[None] == torch.arange(len(edges) + 1, device=device)[:, None, None]


def band_energy(x: Tensor, masks: Tensor) -> Tensor:
    """Mean square of an image within each band, (N, C, H, W), (B, H, W) -> (N, B).

    Summed over the bands it is the mean square of the image over channels and pixels (Parseval).
    """
    power = power_spectrum(x).mean(1).flatten(1)  # (N, H*W)
    return power @ masks.flatten(1).to(power).t() / masks[0].numel()
