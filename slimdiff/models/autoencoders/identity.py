"""The first stage of a pixel-space model: none."""

from __future__ import annotations

from torch import Tensor, nn

from slimdiff.registry import MODELS


@MODELS.register_module()
class IdentityAutoencoder(nn.Module):
    """Latents are the images. Shows the interface of a first stage: ``encode``, ``decode``, ``downsampling``."""

    downsampling = 1

    def encode(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] to latents."""
        return images

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to images."""
        return latents
