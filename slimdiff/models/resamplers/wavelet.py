"""Wavelet resamplers without a gate: the ablation between pixel shuffle and wavelet gating."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from slimdiff.functional.haar import traced
from slimdiff.functional.wavelet import check_even, check_wavelet, dwt2, idwt2, is_haar
from slimdiff.models.layers.channels import Axes, Channels, affine
from slimdiff.models.layers.checks import require_divisible
from slimdiff.registry import RESAMPLERS


@RESAMPLERS.register_module()
class WaveletDown(nn.Module):
    """Wavelet transform, the four bands concatenated (cA, cH, cV, cD), then a 1x1 convolution 4C -> C.

    Args:
        channels: in and out.
        wavelet: a discrete wavelet of PyWavelets.

    Raises:
        ValueError: an unknown wavelet; in ``forward``, an odd height or width.
    """

    def __init__(self, channels: int, wavelet: str = 'haar') -> None:
        super().__init__()
        self.wavelet = check_wavelet(wavelet)
        self.project = nn.Conv2d(4 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        check_even(x, 'WaveletDown input')
        if is_haar(self.wavelet) and not traced():
            # The transform acts within 2x2 cells, so it moves into the weights: one convolution of stride 2.
            channels = x.shape[1]
            weight = idwt2(self.project.weight.view(channels, 4, channels, 1, 1))  # (C, C, 2, 2)
            return F.conv2d(x, weight, self.project.bias, stride=2)
        return self.project(dwt2(x, self.wavelet).flatten(1, 2))

    @staticmethod
    def channel_axes(stream: Channels) -> dict[str, Axes]:
        return affine('project', stream, stream.times(4))


@RESAMPLERS.register_module()
class WaveletUp(nn.Module):
    """Four groups of C/4 channels are taken for bands (cA, cH, cV, cD): inverse transform, then a 1x1 conv C/4 -> C.

    Args:
        channels: in and out, a multiple of 4.
        wavelet: a discrete wavelet of PyWavelets.

    Raises:
        ValueError: channels that four bands don't divide, or an unknown wavelet.
    """

    #: what comes in is four bands, also at a smaller width
    input_parts = 4

    def __init__(self, channels: int, wavelet: str = 'haar') -> None:
        super().__init__()
        require_divisible(type(self).__name__, channels, 4, 'wavelet bands')
        self.wavelet = check_wavelet(wavelet)
        self.project = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(idwt2(x.unflatten(1, (4, -1)), self.wavelet))

    @staticmethod
    def channel_axes(stream: Channels) -> dict[str, Axes]:
        return affine('project', stream, Channels(stream.parts[:1]))
