"""Random samples of a given shape: what a dry run trains on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from slimdiff.datasets.seeding import seed32
from slimdiff.registry import DATASETS


@DATASETS.register_module()
class RandomSamples(Dataset):
    """Standard normal noise in place of images or latents; sample k is always the same.

    Args:
        shape: (C, H, W) of a sample.
        key: ``inputs`` or ``latents``.
        num_classes: labels are drawn below it; None for no labels.
        captions: whether samples have a ``caption``.
        length: number of samples.
        seed: of all of them.
    """

    def __init__(self, shape: Sequence[int], key: str = 'inputs', num_classes: int | None = None,
                 captions: bool = False, length: int = 1024, seed: int = 0) -> None:
        self.shape, self.key, self.num_classes, self.captions = tuple(shape), key, num_classes, captions
        self.length, self.seed = length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, k: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed32(self.seed, k))
        sample: dict[str, Any] = {self.key: torch.randn(self.shape, generator=generator)}
        if self.num_classes:
            sample['labels'] = int(torch.randint(self.num_classes, (), generator=generator))
        if self.captions:
            sample['caption'] = f'sample {k}'
        return sample
