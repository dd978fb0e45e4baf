"""Decoding a large image in overlapping tiles, so that memory does not grow with it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def decode_in_tiles(decode: Callable[[Tensor], Tensor], latents: Tensor, tile: int, factor: int,
                    overlap: float = 0.25) -> Tensor:
    """What diffusers' ``AutoencoderKL.tiled_decode`` does, for any decoder.

    Tiles are cut every ``(1 - overlap) tile`` and blended linearly where they overlap. The result is close to, and not
    the same as, decoding at once: normalisation and attention see a tile instead of the image.

    Args:
        decode: (N, C, h, w) to (N, 3, factor h, factor w).
        latents: (N, C, h, w).
        tile: side of a tile of latents.
        factor: of the decoder.
    """
    step, blend = int(tile * (1 - overlap)), int(tile * factor * overlap)
    limit = tile * factor - blend
    height, width = latents.shape[2:]
    above: list[Tensor] = []
    rows = []
    for top in range(0, height, step):
        row: list[Tensor] = []
        for column, left in enumerate(range(0, width, step)):
            image = decode(latents[:, :, top:top + tile, left:left + tile])
            if above:
                _blend(above[column], image, blend, dim=2)
            if row:
                _blend(row[-1], image, blend, dim=3)
            row.append(image)
        rows.append(torch.cat([image[:, :, :limit, :limit] for image in row], dim=3))
        above = row
    return torch.cat(rows, dim=2)


def _blend(before: Tensor, after: Tensor, extent: int, dim: int) -> None:
    """Fade from the end of ``before`` to the beginning of ``after``, which is changed, along ``dim``."""
    extent = min(before.shape[dim], after.shape[dim], extent)
    weight = torch.arange(extent, device=after.device, dtype=after.dtype) / max(extent, 1)
    weight = weight.view(-1, 1) if dim == 2 else weight
    start = after.narrow(dim, 0, extent)
    start.copy_(before.narrow(dim, before.shape[dim] - extent, extent) * (1 - weight) + start * weight)
