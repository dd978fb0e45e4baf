"""The Haar transform by sums and differences of 2x2 cells, written for memory bandwidth.

A cell (a b; c d) has the bands cA = (a+b+c+d)/2, cH = (a+b-c-d)/2, cV = (a-b+c-d)/2, cD = (a-b-c+d)/2. The transform is
orthonormal and symmetric, so each direction is the other's gradient and both are differentiable any number of times.

In eager mode the work goes through the batch in chunks, so that intermediates stay in the processor's cache; under
``torch.compile`` the same formula is traced and fused.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

# Elements of an image batch handled at a time on the CPU: 4 MB of float32, what a few second-level caches hold.
CHUNK = 1 << 20


def haar_patterns(like: Tensor) -> Tensor:
    """(4, 4), symmetric: row b is the pattern of band b over the pixels (a, b, c, d) of a cell, dtype as ``like``."""
    return (_patterns if traced() else _cached_patterns)(like.dtype, like.device)


def _patterns(dtype: torch.dtype, device: torch.device) -> Tensor:
    signs = [[1., 1., 1., 1.], [1., 1., -1., -1.], [1., -1., 1., -1.], [1., -1., -1., 1.]]
    return torch.tensor(signs, dtype=dtype, device=device) / 2


@functools.cache
def _cached_patterns(dtype: torch.dtype, device: torch.device) -> Tensor:
    # Never an inference tensor, even when first asked for in inference mode: the cache outlives that mode.
    with torch.inference_mode(False):
        return _patterns(dtype, device)


def traced() -> bool:
    """Whether ops are being recorded (torch.compile, torch.export, torch.jit.trace): then use plain formulas only."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def cells(x: Tensor) -> Tensor:
    """View (N, C, H, W) as (2, 2, N, C, H/2, W/2): row and column within the cell come first."""
    height, width = x.shape[-2:]
    return x.unflatten(3, (width // 2, 2)).unflatten(2, (height // 2, 2)).permute(3, 5, 0, 1, 2, 4)


def chunks(x: Tensor) -> Iterator[slice]:
    """Slices of the batch axis of about ``CHUNK`` elements each; one slice for all on an accelerator."""
    size = x.shape[0]
    if x.device.type == 'cpu':
        size = max(1, CHUNK // max(1, x[:1].numel()))
    return (slice(i, i + size) for i in range(0, x.shape[0], max(1, size)))


def is_channels_last(x: Tensor) -> bool:
    """Whether ``x`` is 4-D and lies in memory as NHWC (and is not, ambiguously, contiguous as NCHW too)."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def bands_are_channels_last(bands: Tensor) -> bool:
    """Whether (N, 4, C, H/2, W/2) lies in memory as (N, H/2, W/2, 4, C)."""
    return bands.stride(2) == 1 and bands.stride(4) > 1


def empty_bands(x: Tensor) -> Tensor:
    """Uninitialised (N, 4, C, H/2, W/2) in the memory format of ``x`` (N, C, H, W), bands outside channels."""
    n, channels, height, width = x.shape
    if is_channels_last(x):
        return x.new_empty(n, height // 2, width // 2, 4, channels).permute(0, 3, 4, 1, 2)
    return x.new_empty(n, 4, channels, height // 2, width // 2)


def empty_image(bands: Tensor) -> Tensor:
    """Uninitialised (N, C, H, W) in the memory format of ``bands`` (N, 4, C, H/2, W/2)."""
    n, _, channels, height, width = bands.shape
    if bands_are_channels_last(bands):
        return bands.new_empty(n, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
    return bands.new_empty(n, channels, 2 * height, 2 * width)


def split(x: Tensor, out: Tensor) -> None:
    """Write the bands of ``x`` into ``out`` (N, 4, C, H/2, W/2)."""
    (a, b), (c, d) = cells(x)
    _butterfly((a, b), (c, d), out.unbind(1))


def merge(bands: Tensor, out: Tensor) -> None:
    """Write the image that has these ``bands`` into ``out`` (N, C, H, W)."""
    low, high_rows, high_columns, high_both = bands.unbind(1)
    (a, b), (c, d) = cells(out)
    _butterfly((low, high_columns), (high_rows, high_both), (a, c, b, d))


def _butterfly(top, bottom, out) -> None:
    """out = (sum, row difference, column difference, diagonal) of the cell (top; bottom), halved."""
    halved = []
    for left, right in zip(top, bottom):
        halved.append((torch.add(left, right).mul_(0.5), torch.sub(left, right).mul_(0.5)))
    (sum_left, difference_left), (sum_right, difference_right) = halved
    torch.add(sum_left, sum_right, out=out[0])
    torch.add(difference_left, difference_right, out=out[1])
    torch.sub(sum_left, sum_right, out=out[2])
    torch.sub(difference_left, difference_right, out=out[3])


class _Split(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        bands = empty_bands(x)
        for part in chunks(x):
            split(x[part], bands[part])
        return bands

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _Merge.apply(grad)


class _Merge(torch.autograd.Function):

    @staticmethod
    def forward(ctx, bands: Tensor) -> Tensor:
        image = empty_image(bands)
        for part in chunks(image):
            merge(bands[part], image[part])
        return image

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _Split.apply(grad)


def haar_dwt2(x: Tensor) -> Tensor:
    """Bands cA, cH, cV, cD of ``x``, (N, C, H, W) -> (N, 4, C, H/2, W/2); H and W even."""
    if not traced():
        return _Split.apply(x)
    (a, b), (c, d) = cells(x)
    bands = (a + b + c + d, a + b - c - d, a - b + c - d, a - b - c + d)
    if is_channels_last(x):
        return torch.stack([band.permute(0, 2, 3, 1) for band in bands], 3).mul(0.5).permute(0, 3, 4, 1, 2)
    return torch.stack(bands, 1) * 0.5


def haar_idwt2(bands: Tensor) -> Tensor:
    """Inverse of :func:`haar_dwt2`, (N, 4, C, H/2, W/2) -> (N, C, H, W)."""
    if not traced():
        return _Merge.apply(bands)
    low, rows, columns, both = bands.unbind(1)
    a, b = low + rows + columns + both, low + rows - columns - both
    c, d = low - rows + columns - both, low - rows - columns + both
    n, _, channels, height, width = bands.shape
    if bands_are_channels_last(bands):
        parts = [torch.stack([p.permute(0, 2, 3, 1) for p in row], 3) for row in ((a, b), (c, d))]  # (N, h, w, 2, C)
        image = torch.stack(parts, 2).mul(0.5)  # (N, h, 2, w, 2, C)
        return image.reshape(n, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
    parts = [torch.stack(row, 4) for row in ((a, b), (c, d))]  # (N, C, h, w, 2)
    return torch.stack(parts, 3).mul(0.5).reshape(n, channels, 2 * height, 2 * width)
