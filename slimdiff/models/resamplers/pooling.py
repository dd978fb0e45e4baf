"""Resamplers without weights: the mean of 2x2 pixels down, nearest neighbour up."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from slimdiff.functional.wavelet import check_even
from slimdiff.registry import RESAMPLERS


@RESAMPLERS.register_module()
class AvgPoolDown(nn.Module):
    """Mean of every 2x2 cell: the low band of a Haar transform, halved.

    Args:
        channels: unused; there are no weights.

    Raises:
        ValueError: in ``forward``, an odd height or width.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        check_even(x, 'AvgPoolDown input')
        return F.avg_pool2d(x, 2)


@RESAMPLERS.register_module()
class NearestUp(nn.Module):
    """Every pixel becomes a 2x2 cell; ``channels`` is unused."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode='nearest')
