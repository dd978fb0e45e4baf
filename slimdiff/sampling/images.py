"""From tensors in [-1, 1] to 8-bit files."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """(N, C, H, W) in [-1, 1] to uint8, rounded to nearest."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def as_rgb(images: Tensor) -> Tensor:
    """Grey images (N, 1, H, W) in three equal channels; those of three channels as they are.

    Raises:
        ValueError: another number of channels.
    """
    if images.shape[1] not in (1, 3):
        raise ValueError(f'Images must be (N, 1, H, W) or (N, 3, H, W), got {tuple(images.shape)}.')
    return images.expand(-1, 3, -1, -1)


def save_png(image: Tensor, path: str | Path) -> None:
    """Write one uint8 image (C, H, W), C = 1 or 3; the file appears whole or not at all."""
    array = image.permute(1, 2, 0).cpu().numpy()
    temporary = Path(f'{path}.part')
    Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array).save(temporary, format='PNG')
    os.replace(temporary, path)


def image_grid(images: Tensor, columns: int, gap: int = 2) -> Tensor:
    """Images (N, C, H, W) uint8 in rows of ``columns``, as one (C, H', W'), white between and after them."""
    count, channels, height, width = images.shape
    rows = math.ceil(count / columns)
    grid = torch.full((channels, rows * (height + gap) - gap, columns * (width + gap) - gap), 255, dtype=torch.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        grid[:, top:top + height, left:left + width] = image
    return grid


def save_grid(images: Tensor, path: str | Path, columns: int | None = None, gap: int = 2, zoom: int = 1) -> None:
    """Write uint8 images (N, C, H, W) as one picture, white between them.

    Args:
        columns: images in a row; about the square root of N by default.
        gap: pixels between images, before ``zoom``.
        zoom: whole factor by which each pixel is enlarged.
    """
    grid = image_grid(images, columns or math.ceil(math.sqrt(len(images))), gap)
    save_png(grid.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2), path)
