"""The check of a config knows the first stages and the images behind latents."""

import pytest

from slimdiff.configuration import ConfigError, check_config


def config(autoencoder=None, dataset=None):
    return dict(model=dict(type='DiffusionModel', unet=dict(type='UNet'), autoencoder=autoencoder or {}),
                train_dataloader=dict(dataset=dataset or dict(type='PhotoPatches')), default_scope='slimdiff')


@pytest.mark.parametrize('parts, message', [
    (dict(autoencoder=dict(type='VQAutoencoder', latent_scal=1)), "'latent_scal'. Did you mean 'latent_scale'"),
    (dict(autoencoder=dict(type='KLAutoencoder', architecture=dict(layer_per_block=2))),
     "'layer_per_block'. Did you mean 'layers_per_block'"),
    (dict(dataset=dict(type='LatentDataset', data_root='x', source=dict(type='ImageFoldr'))),
     "'ImageFoldr'.*Did you mean 'ImageFolder'"),
])
def test_misspelt(parts, message):
    with pytest.raises(ConfigError, match=message):
        check_config(config(**{'autoencoder': dict(type='VQAutoencoder'), **parts}))


def test_right():
    check_config(config(dict(type='KLAutoencoder', checkpoint='x', posterior='mode', architecture=dict(act_fn='silu')),
                        dict(type='LatentDataset', data_root='x', source=dict(type='ImageFolder', data_root='y'))))
