"""Are the images of a data set what models take: varied, and in [-1, 1]?"""

from __future__ import annotations

import contextlib
from typing import Any

import torch

#: images looked at, spread over the data set
COUNT = 8
#: smallest difference between the darkest and the brightest value of them all: two and a half of 255 grey levels
LEAST_RANGE = 2.5 / 127.5
#: largest absolute value; noise in place of images (RandomSamples) stays below it, 0..255 does not
LARGEST = 8.0


def check_images(dataset: Any) -> None:
    """Look at a few images of a data set, once; encoded latents may have any values.

    Raises:
        ValueError: all of them are one shade, as after ``Normalize`` before ``PackImage``, or values are far outside
            [-1, 1].
    """
    if getattr(dataset, '_images_are_checked', False):
        return
    numbers = sorted({i * (len(dataset) - 1) // (COUNT - 1) for i in range(COUNT)}) if len(dataset) else []
    samples = [dataset[i] for i in numbers]
    images = [torch.as_tensor(sample['inputs']) for sample in samples if 'inputs' in sample]
    if not images:
        return
    low, high = (float(f(torch.stack([f(image.float()) for image in images]))) for f in (torch.min, torch.max))
    found = f'{type(dataset).__name__}: the values of {len(images)} of its images lie in [{low:.4g}, {high:.4g}]'
    if max(abs(low), abs(high)) > LARGEST:
        raise ValueError(f'{found}, but a model takes images in [-1, 1]. Divide 0..255 by 127.5 and subtract 1, as '
                         'PackImage does.')
    if len(images) > 1 and high - low < LEAST_RANGE:
        raise ValueError(f'{found}: they are all but one shade. PackImage divides 0..255 by 127.5 and subtracts 1 '
                         'itself; leave out what scales the values before it, such as Normalize.')
    with contextlib.suppress(AttributeError):  # a list has no attributes
        dataset._images_are_checked = True
