"""The first stage of a pixel-space model: none."""

from __future__ import annotations

from torch import Tensor, nn

from slimdiff.registry import MODELS


@MODELS.register_module()
class IdentityAutoencoder(nn.Module):
    """Latents are the images. Shows the interface of a first stage.

    A model needs ``downsampling``, ``encode`` and ``decode``; training from encoded latents also ``latent_scale``,
    ``scale`` and ``fingerprint``; encoding them also ``encode_raw``.
    """

    downsampling = 1
    latent_channels = 3
    latent_scale = 1.0

    def encode(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] to scaled latents."""
        return images

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents to images."""
        return latents

    def encode_raw(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images to latents as the encoder gives them."""
        return images

    def scale(self, raw: Tensor) -> Tensor:
        """Raw latents, of any precision, to scaled ones."""
        return raw.float()

    def fingerprint(self) -> str:
        """What tells the latents of one first stage from those of another."""
        return 'identity'
