"""First stages: images to latents and back."""

from slimdiff.models.autoencoders.identity import IdentityAutoencoder

__all__ = ['IdentityAutoencoder']
