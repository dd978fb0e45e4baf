"""Pixels of a 2x2 cell to channels and back, with a 1x1 convolution (Shi et al. 2016)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimdiff.functional.haar import is_channels_last
from slimdiff.functional.wavelet import check_even
from slimdiff.models.layers.channels import Axes, Channels, affine
from slimdiff.registry import RESAMPLERS


@RESAMPLERS.register_module()
class PixelUnshuffleDown(nn.Module):
    """2x2 cells to 4C channels, then a 1x1 convolution 4C -> C.

    Raises:
        ValueError: in ``forward``, an odd height or width.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        check_even(x, 'PixelUnshuffleDown input')
        # Unshuffle and 1x1 convolution are one 2x2 convolution of stride 2 with the same weights: channel 4c + 2i + j
        # of the former is pixel (i, j) of channel c.
        channels = x.shape[1]
        return F.conv2d(x, self.conv.weight.view(channels, channels, 2, 2), self.conv.bias, stride=2)

    @staticmethod
    def channel_axes(stream: Channels) -> dict[str, Axes]:
        return affine('conv', stream, stream.each(4))


@RESAMPLERS.register_module()
class PixelShuffleUp(nn.Module):
    """1x1 convolution C -> 4C, then channels to 2x2 cells."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.pixel_shuffle(self.conv(x), 2)
        # Where PyTorch's pixel_shuffle drops channels_last, the layers after it should not have to pay for it.
        return y.contiguous(memory_format=torch.channels_last) if is_channels_last(x) else y

    @staticmethod
    def channel_axes(stream: Channels) -> dict[str, Axes]:
        return affine('conv', stream.each(4), stream)
