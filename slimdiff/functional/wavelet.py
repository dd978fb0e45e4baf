"""Two-dimensional discrete wavelet transform of NCHW tensors, periodised and differentiable.

Filters come from PyWavelets and the bands are those of ``pywt.dwt2(x, wavelet, mode='periodization')``, in its order
cA, cH, cV, cD. The four bands are axis 1 of one tensor, (N, 4, C, H/2, W/2), and its memory follows the input's: for a
channels_last input ``bands.flatten(1, 2)`` is a channels_last (N, 4C, H/2, W/2) tensor, without a copy.

With periodisation the transform of n samples is an n x n matrix, whatever the filter's length (a filter longer than
the image wraps round several times). Feature maps are small, so each axis is transformed by one dense matrix product:
BLAS runs it near peak, autograd knows it, and both memory formats suit it. Haar, the papers' wavelet, needs only sums
and differences within 2x2 cells (:mod:`slimdiff.functional.haar`).
"""

from __future__ import annotations

import functools

import pywt
import torch
from torch import Tensor

from slimdiff.functional.haar import bands_are_channels_last, haar_dwt2, haar_idwt2, is_channels_last, traced
from slimdiff.spelling import did_you_mean


def check_wavelet(wavelet: str) -> str:
    """Return ``wavelet`` in lower case.

    Raises:
        ValueError: not a discrete wavelet of PyWavelets; names the nearest one.
    """
    names = pywt.wavelist(kind='discrete')
    if str(wavelet).lower() not in names:
        raise ValueError(f"wavelet: got '{wavelet}', which is not a discrete wavelet.{did_you_mean(wavelet, names)} "
                         'Allowed: haar, db1-38, sym2-20, coif1-17, dmey, bior and rbio as in '
                         "pywt.wavelist(kind='discrete').")
    return str(wavelet).lower()


def check_even(x: Tensor, name: str = 'x') -> None:
    """Raise ValueError unless ``x`` is (N, C, H, W) with even, positive H and W."""
    if x.dim() != 4:
        raise ValueError(f'{name}: got the shape {tuple(x.shape)}; it must have the four axes (N, C, H, W).')
    height, width = x.shape[-2:]
    if height % 2 or width % 2 or height < 2 or width < 2:
        raise ValueError(f'{name}: got height {height} and width {width}; halving needs even sizes of at least 2. '
                         'Pad or resize the image.')


def dwt2(x: Tensor, wavelet: str = 'haar') -> Tensor:
    """Wavelet transform of one level, (N, C, H, W) -> (N, 4, C, H/2, W/2) with the bands cA, cH, cV, cD.

    ``bands[:, b]`` equals band b of ``pywt.dwt2(x, wavelet, mode='periodization')``. For an orthogonal wavelet the
    energy is preserved.

    Raises:
        ValueError: an odd height or width, or an unknown wavelet.
    """
    check_even(x)
    wavelet = _canonical(wavelet)
    if wavelet == 'haar':
        return haar_dwt2(x)
    height, width = x.shape[-2:]
    rows = _matrix(wavelet, 'analysis', height, x.dtype, x.device)
    columns = _matrix(wavelet, 'analysis', width, x.dtype, x.device)
    if is_channels_last(x):
        y = torch.matmul(columns, x.permute(0, 2, 3, 1))  # (N, H, W, C), transformed along W
        y = torch.matmul(rows, y.flatten(2))  # (N, H, W C), along H too
        y = y.view(-1, 2, height // 2, 2, width // 2, x.shape[1])  # low and high along H, low and high along W
        return y.permute(0, 2, 4, 3, 1, 5).flatten(3, 4).permute(0, 3, 4, 1, 2)
    y = torch.matmul(rows, torch.matmul(x, columns.t()))
    y = y.view(*x.shape[:2], 2, height // 2, 2, width // 2)
    return y.permute(0, 4, 2, 1, 3, 5).flatten(1, 2)


def idwt2(bands: Tensor, wavelet: str = 'haar') -> Tensor:
    """Inverse of :func:`dwt2`, (N, 4, C, H/2, W/2) -> (N, C, H, W); equals ``pywt.idwt2``.

    The round trip is exact up to rounding, but for ``dmey``, whose filters are approximations (PyWavelets' own round
    trip is off by 1e-3 too).

    Raises:
        ValueError: ``bands`` does not have four bands on axis 1 of five, or an unknown wavelet.
    """
    if bands.dim() != 5 or bands.shape[1] != 4:
        raise ValueError(f'bands: got the shape {tuple(bands.shape)}; it must be (N, 4, C, H/2, W/2) with the bands '
                         'cA, cH, cV, cD on axis 1, as dwt2 returns them.')
    wavelet = _canonical(wavelet)
    if wavelet == 'haar':
        return haar_idwt2(bands)
    _, _, channels, half_height, half_width = bands.shape
    height, width = 2 * half_height, 2 * half_width
    rows = _matrix(wavelet, 'synthesis', height, bands.dtype, bands.device)
    columns = _matrix(wavelet, 'synthesis', width, bands.dtype, bands.device)
    y = bands.unflatten(1, (2, 2))  # (N, low and high along W, low and high along H, C, H/2, W/2)
    if bands_are_channels_last(bands):
        y = y.permute(0, 2, 4, 1, 5, 3).reshape(-1, height, width * channels)
        y = torch.matmul(rows, y).unflatten(2, (width, channels))
        return torch.matmul(columns, y).permute(0, 3, 1, 2)
    y = y.permute(0, 3, 2, 4, 1, 5).reshape(-1, channels, height, width)
    return torch.matmul(rows, torch.matmul(y, columns.t()))


def is_haar(wavelet: str) -> bool:
    """Whether ``wavelet`` is Haar, under any of its names (haar, db1, bior1.1, rbio1.1); ValueError if unknown."""
    return _canonical(wavelet) == 'haar'


# Constants to the compiler, which cannot look into PyWavelets; cached for eager mode, because each takes as long as a
# small convolution. Two functions each, for the compiler would look through the cache to what is inside.


@functools.cache
def _cached_canonical(wavelet: str) -> str:
    wavelet = check_wavelet(wavelet)
    return 'haar' if wavelet in ('db1', 'bior1.1', 'rbio1.1') else wavelet


@torch.compiler.assume_constant_result
def _canonical(wavelet: str) -> str:
    return _cached_canonical(wavelet)


@torch.compiler.assume_constant_result
def _filters(wavelet: str, kind: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    bank = pywt.Wavelet(wavelet)
    if kind == 'analysis':
        return tuple(bank.dec_lo), tuple(bank.dec_hi)
    return tuple(bank.rec_lo), tuple(bank.rec_hi)


def _build_matrix(wavelet: str, kind: str, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The (n, n) matrix of the periodised 1-D transform (low half, then high half) or of its inverse.

    Analysis: band[i] = sum_k f[k] x[(2 i + L/2 - k) mod n]. Synthesis: x[(2 i + k - L/2 + 1) mod n] += f[k] band[i].
    """
    filters = torch.tensor(_filters(wavelet, kind), dtype=torch.float64, device=device)  # (2, L)
    length = filters.shape[1]
    position = 2 * torch.arange(n // 2, device=device)[:, None]
    tap = torch.arange(length, device=device)
    shift = length // 2 - tap if kind == 'analysis' else tap - length // 2 + 1
    sample = ((position + shift) % n).expand(2, n // 2, length)
    # Taps that fall on the same sample add up: the filter wraps round a short signal.
    matrix = torch.zeros(2, n // 2, n, dtype=torch.float64, device=device)
    matrix = matrix.scatter_add(2, sample, filters[:, None].expand_as(sample)).flatten(0, 1).to(dtype)
    return matrix if kind == 'analysis' else matrix.t().contiguous()


@functools.lru_cache(maxsize=128)
def _cached_matrix(*key) -> Tensor:
    # Never an inference tensor, even when first asked for in inference mode: the cache outlives that mode.
    with torch.inference_mode(False), torch.no_grad():
        return _build_matrix(*key)


def _matrix(wavelet: str, kind: str, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    if traced():
        return _build_matrix(wavelet, kind, n, dtype, device)
    return _cached_matrix(wavelet, kind, n, dtype, device)
