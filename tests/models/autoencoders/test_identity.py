import torch

from slimdiff.registry import MODELS


def test_latents_are_the_images_and_nothing_is_trained():
    autoencoder = MODELS.build(dict(type='IdentityAutoencoder'))
    images = torch.randn(2, 3, 4, 4)
    assert autoencoder.decode(autoencoder.encode(images)) is images
    assert not list(autoencoder.parameters()) and autoencoder.downsampling == 1
