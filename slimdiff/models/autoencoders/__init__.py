"""First stages: images to latents and back."""

from slimdiff.models.autoencoders.identity import IdentityAutoencoder
from slimdiff.models.autoencoders.kl import KLAutoencoder
from slimdiff.models.autoencoders.vq import VQAutoencoder

__all__ = ['IdentityAutoencoder', 'KLAutoencoder', 'VQAutoencoder']
