"""Wavelet gating: weight each band of each channel of each sample, then add the bands up or stack them.

The paper's down-sampling ("Diffusion Probabilistic Model Made Slim", CVPR 2023, section 4.2) is
y = sum_b gate_b * band_b. A Haar band is the product of a 2x2 cell with a fixed 2x2 pattern, so for Haar

    y = sum_b gate_b <cell, pattern_b> = <cell, sum_b gate_b pattern_b>,

a 2x2 stride-2 convolution with one kernel per sample and channel, the inverse Haar transform of the gates. It reads x
once and never builds the four bands. :func:`gated_sum` and :func:`gated_bands` do so in eager mode with hand-written
gradients that go through the batch in cache-sized chunks; the plain formula is for other wavelets and for
``torch.compile``, which fuses it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from slimdiff.functional.haar import (
    bands_are_channels_last,
    cells,
    chunks,
    empty_bands,
    haar_idwt2,
    haar_patterns,
    is_channels_last,
    merge,
    split,
    traced,
)
from slimdiff.functional.wavelet import check_even, dwt2, is_haar

# Cells per output channel from which gates are folded into the convolution.
FOLD_RATIO = 4


def spatial_mean(x: Tensor) -> Tensor:
    """Mean over height and width, (N, C, H, W) -> (N, C).

    As a sum and a scaling, because the gradient of ``sum`` is a view while that of ``mean`` fills a tensor as large
    as x. float16 could overflow so and takes ``mean``.
    """
    if x.dtype == torch.float16:
        return x.mean((2, 3))
    return x.sum((2, 3)) * (1 / (x.shape[2] * x.shape[3]))


def gated_bands(x: Tensor, gates: Tensor, wavelet: str = 'haar') -> Tensor:
    """``dwt2(x) * gates``, (N, C, H, W) and (N, 4, C) -> (N, 4, C, H/2, W/2).

    Raises:
        ValueError: odd sizes, an unknown wavelet, or gates of another shape.
    """
    _check(x, gates)
    gates = gates.to(x.dtype)
    if is_haar(wavelet) and not traced():
        return _GatedBands.apply(x, gates)
    return dwt2(x, wavelet) * gates[..., None, None]


def gated_sum(x: Tensor, gates: Tensor, wavelet: str = 'haar') -> Tensor:
    """``(dwt2(x) * gates).sum(1)``, (N, C, H, W) and (N, 4, C) -> (N, C, H/2, W/2), in the memory format of x.

    Raises:
        ValueError: odd sizes, an unknown wavelet, or gates of another shape.
    """
    _check(x, gates)
    gates = gates.to(x.dtype)
    if not is_haar(wavelet):
        first, *others = zip(dwt2(x, wavelet).unbind(1), gates[..., None, None].unbind(1))
        y = first[0] * first[1]
        for band, gate in others:
            y = torch.addcmul(y, band, gate)
        return y
    # The inverse transform of the gates, one kernel (a b; c d) a channel: (N, 4, C).
    kernel = torch.matmul(haar_patterns(gates), gates).to(x.dtype)
    if not traced():
        return _CellSum.apply(x if is_channels_last(x) else x.contiguous(), kernel)
    (a, b), (c, d) = cells(x)
    ka, kb, kc, kd = kernel[..., None, None].unbind(1)
    return a * ka + b * kb + c * kc + d * kd


def gated_projection(x: Tensor, gates: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``conv2d(gated_bands(x, gates).flatten(1, 2), weight, bias)`` for Haar, with the gates moved into the weight.

    (N, C, H, W), (N, 4, C), (O, 4C, 1, 1), (O,) -> (N, O, H/2, W/2). Transform, gate and convolution are linear in
    each cell: together one (4C, O) matrix per sample, applied to the cells. That saves three passes over x and pays
    for N such matrices, so it is the faster one where cells outnumber channels (:func:`projection_folds`).
    """
    _check(x, gates)
    n, channels, height, width = x.shape
    outputs = weight.shape[0]
    gates = gates.to(weight.dtype)
    # Viewed with the channels last, so that its gradient has the strides of the UNet's channels_last weights. For 1x1
    # it is the same memory either way, but DDP compares strides, and copies where they differ.
    weight = weight.permute(0, 2, 3, 1).view(outputs, 4, channels)
    weight = weight.transpose(0, 1) * gates[:, :, None]  # (N, 4, O, C)
    kernel = haar_idwt2(weight.reshape(n, 4, outputs * channels, 1, 1)).view(n, outputs, channels, 2, 2)
    if is_channels_last(x):
        matrix = kernel.permute(0, 3, 4, 2, 1).reshape(n, 4 * channels, outputs)
        y = torch.bmm(cells(x).permute(2, 4, 5, 0, 1, 3).reshape(n, -1, 4 * channels), matrix)
        y = y.view(n, height // 2, width // 2, outputs).permute(0, 3, 1, 2)
    else:
        y = torch.bmm(kernel.reshape(n, outputs, 4 * channels), F.pixel_unshuffle(x, 2).flatten(2))
        y = y.view(n, outputs, height // 2, width // 2)
    return y if bias is None else y + bias.to(y.dtype)[:, None, None]


def projection_folds(x: Tensor, outputs: int) -> bool:
    """Whether :func:`gated_projection` is expected to beat convolving the gated bands: cells >= 4 x outputs.

    Measured by ``benchmarks/bench_resamplers.py``. Never while tracing: a profiler should see the convolution.
    """
    return not torch.jit.is_tracing() and x.shape[2] * x.shape[3] // 4 >= FOLD_RATIO * outputs


def _check(x: Tensor, gates: Tensor) -> None:
    check_even(x)
    expected = (x.shape[0], 4, x.shape[1])
    if tuple(gates.shape) != expected:
        raise ValueError(f'gates: got the shape {tuple(gates.shape)}; for x of shape {tuple(x.shape)} it must be '
                         f'{expected}: sample, band, channel.')


class _CellSum(torch.autograd.Function):
    """y[n, c] = <cell of x[n, c], kernel[n, :, c]>: (N, C, H, W), (N, 4, C) -> (N, C, H/2, W/2)."""

    @staticmethod
    def forward(ctx, x: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(x, kernel)
        n, channels, height, width = x.shape
        if is_channels_last(x):
            y = x.new_empty(n, height // 2, width // 2, channels).permute(0, 3, 1, 2)
            function = _sum_cells_nhwc
        else:
            y = x.new_empty(n, channels, height // 2, width // 2)
            function = _sum_cells_nchw
        for part in chunks(x):
            function(x[part], kernel[part], y[part])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, kernel = ctx.saved_tensors
        nhwc = is_channels_last(x)
        grad = grad.contiguous(memory_format=torch.channels_last if nhwc else torch.contiguous_format)
        grad_x, grad_kernel = torch.empty_like(x), torch.empty_like(kernel)
        function = _grad_cells_nhwc if nhwc else _grad_cells_nchw
        for part in chunks(x):
            grad_kernel[part] = function(x[part], kernel[part], grad[part], grad_x[part])
        return grad_x, grad_kernel


def _sum_cells_nhwc(x: Tensor, kernel: Tensor, y: Tensor) -> None:
    (a, b), (c, d) = cells(x)
    ka, kb, kc, kd = kernel[..., None, None].unbind(1)
    torch.mul(a, ka, out=y).addcmul_(b, kb).addcmul_(c, kc).addcmul_(d, kd)


def _grad_cells_nhwc(x: Tensor, kernel: Tensor, grad: Tensor, grad_x: Tensor) -> Tensor:
    """Gradients of a chunk: writes that of x into ``grad_x``, returns that of the kernel."""
    n, channels, height, width = x.shape
    shape = (n, height // 2, 2, width // 2, 2, channels)
    x, out = x.permute(0, 2, 3, 1).view(shape), grad_x.permute(0, 2, 3, 1).view(shape)
    grad = grad.permute(0, 2, 3, 1)[:, :, None, :, None]  # (N, H/2, 1, W/2, 1, C)
    # One axis at a time: PyTorch reduces over two axes that do not touch eight times slower. The products go through
    # grad_x, which is in the cache when it gets its own values.
    grad_kernel = torch.mul(x, grad, out=out).sum(1).sum(2)  # (N, 2, 2, C)
    torch.mul(grad, kernel.view(n, 1, 2, 1, 2, channels), out=out)
    return grad_kernel.flatten(1, 2)


# With the width innermost, every other pixel is out of reach of vector registers. So pairs of rows are multiplied
# whole, by a kernel repeated along them, and small matrices of zeros and ones repeat a kernel, add up or fill a cell.



def _repeat_matrix(x: Tensor) -> Tensor:
    """(2, W): column j has its one in row j mod 2."""
    return torch.eye(2, dtype=x.dtype, device=x.device).repeat(1, x.shape[-1] // 2)


def _cell_matrix(x: Tensor) -> Tensor:
    """(W/2, 2W): row j has its ones at the four pixels of cell j in a pair of rows."""
    return torch.eye(x.shape[-1] // 2, dtype=x.dtype, device=x.device).repeat_interleave(2, 1).repeat(1, 2)


def _kernel_rows(x: Tensor, kernel: Tensor) -> Tensor:
    """(N, 4, C) -> (N, C, 1, 2W), what multiplies each pair of rows."""
    pairs = kernel.transpose(1, 2).reshape(-1, 2)
    return torch.mm(pairs, _repeat_matrix(x)).view(*x.shape[:2], 1, -1)


def _sum_cells_nchw(x: Tensor, kernel: Tensor, y: Tensor) -> None:
    n, channels, height, width = x.shape
    with torch.autocast(x.device.type, enabled=False):  # sums by a matrix product, but no reason to round them
        weighted = x.view(n, channels, height // 2, -1) * _kernel_rows(x, kernel)
        torch.mm(weighted.view(-1, 2 * width), _cell_matrix(x).t(), out=y.view(-1, width // 2))


def _grad_cells_nchw(x: Tensor, kernel: Tensor, grad: Tensor, grad_x: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    shape = (n, channels, height // 2, 2 * width)
    grad = torch.mm(grad.reshape(-1, width // 2), _cell_matrix(x)).view(shape)  # to all pixels of the cell
    out = grad_x.view(shape)
    summed = torch.mul(x.view(shape), grad, out=out).sum(2)  # (N, C, 2W)
    torch.mul(grad, _kernel_rows(x, kernel), out=out)
    return torch.mm(summed.view(-1, width), _repeat_matrix(x).t()).view(n, channels, 4).transpose(1, 2)


class _GatedBands(torch.autograd.Function):
    """``haar_dwt2(x) * gates``; the ungated bands are made again in the backward pass, not kept."""

    @staticmethod
    def forward(ctx, x: Tensor, gates: Tensor) -> Tensor:
        ctx.save_for_backward(x, gates)
        bands = empty_bands(x)
        for part in chunks(x):
            split(x[part], bands[part])
            bands[part].mul_(gates[part][..., None, None])
        return bands

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, gates = ctx.saved_tensors
        if bands_are_channels_last(grad) != is_channels_last(x):
            grad = empty_bands(x).copy_(grad)
        grad_x, grad_gates = torch.empty_like(x), torch.empty_like(gates)
        for part in chunks(x):
            bands = empty_bands(x[part])
            split(x[part], bands)
            grad_gates[part] = bands.mul_(grad[part]).sum((3, 4))
            merge(torch.mul(grad[part], gates[part][..., None, None], out=bands), grad_x[part])
        return grad_x, grad_gates
