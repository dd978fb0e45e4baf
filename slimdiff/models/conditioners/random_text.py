"""A stand-in for a text encoder that isn't there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slimdiff.models.conditioners.text import TextConditioner
from slimdiff.registry import MODELS
from slimdiff.sampling import mix_seed


@MODELS.register_module()
class RandomText(TextConditioner):
    """Standard normal context, a function of the caption alone: for dry runs and tests, where nothing is learned.

    Args:
        channels: width of the context.
    """

    def __call__(self, captions: Sequence[str], device: torch.device | str = 'cpu') -> Tensor:
        generators = [torch.Generator().manual_seed(mix_seed(*caption.encode())) for caption in captions]
        return torch.stack([torch.randn(self.max_length, self.channels, generator=g) for g in generators]).to(device)
