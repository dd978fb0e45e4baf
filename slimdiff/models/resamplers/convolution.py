"""The resamplers of DDPM and latent diffusion: strided convolution down, nearest neighbour and convolution up."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from slimdiff.functional.wavelet import check_even
from slimdiff.registry import RESAMPLERS


@RESAMPLERS.register_module()
class ConvDown(nn.Module):
    """3x3 convolution of stride 2 (Ho et al. 2020; Rombach et al. 2022).

    Args:
        channels: in and out.
        asymmetric: pad below and right only, as TensorFlow's 'SAME' and hence DDPM's own weights do; else one pixel
            on every side, as latent diffusion does.

    Raises:
        ValueError: in ``forward``, an odd height or width.
    """

    def __init__(self, channels: int, asymmetric: bool = False) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor) -> Tensor:
        check_even(x, 'ConvDown input')
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)


@RESAMPLERS.register_module()
class NearestConvUp(nn.Module):
    """Nearest neighbour times two, then a 3x3 convolution (Ho et al. 2020; Rombach et al. 2022)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode='nearest'))
