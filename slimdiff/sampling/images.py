"""From tensors in [-1, 1] to 8-bit files."""

from __future__ import annotations

import io
import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from slimdiff.checkpoint.files import atomic_write


def to_uint8(images: Tensor) -> Tensor:
    """(N, C, H, W) in [-1, 1] to uint8, rounded to nearest.

    Raises:
        ValueError: NaN among them, which has no colour.
    """
    if torch.isnan(images).any():
        raise ValueError('The images hold NaN: the network diverges with these settings (precision, guidance, steps), '
                         'or its weights are damaged.')
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def as_rgb(images: Tensor) -> Tensor:
    """Grey images (N, 1, H, W) in three equal channels; those of three channels as they are.

    Raises:
        ValueError: another number of channels.
    """
    if images.shape[1] not in (1, 3):
        raise ValueError(f'Images must be (N, 1, H, W) or (N, 3, H, W), got {tuple(images.shape)}.')
    return images.expand(-1, 3, -1, -1)


def image_format(path: str | Path) -> str | None:
    """Pillow's name of the format that a file's ending means; None for an ending that means no picture.

    Raises:
        ValueError: a format in which Pillow can't write RGB pictures.
    """
    suffix = Path(path).suffix.lower()
    kind = Image.registered_extensions().get(suffix)
    if kind is None:
        return None
    try:
        Image.new('RGB', (1, 1)).save(io.BytesIO(), format=kind)
    except Exception as error:  # no writer, a missing library, no RGB: each has its own class
        raise ValueError(f"{path}: pictures can't be written as {suffix} here ({error}); use .png, .jpg or .webp, or "
                         'a folder, which has another ending.') from None
    return kind


def save_image(image: Tensor, path: str | Path) -> None:
    """Write one uint8 image (C, H, W), C = 1 or 3; the file appears whole or not at all.

    Its ending says the format (:func:`image_format`).
    """
    array = image.permute(1, 2, 0).cpu().numpy()
    picture, kind = Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array), image_format(path)
    atomic_write(path, lambda file: picture.save(file, format=kind), flush=False)


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
    save_image(grid.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2), path)
