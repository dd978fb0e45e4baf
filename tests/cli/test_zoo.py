"""Models that came with their weights: found by name, and their samples show what was asked for."""

import numpy as np
import pytest
import torch

from slimdiff.cli import sample
from slimdiff.evaluation.classifier import load_classifier
from slimdiff.installation import installation_roots, zoo, zoo_weights


def test_names():
    assert {'ldm/fashion_mnist', 'lite_ldm/fashion_mnist', 'sd/fashion_mnist', 'ddsm/fashion_mnist'} <= set(zoo())


@pytest.mark.parametrize('name, least', [('sd/fashion_mnist', 0.7), ('lite_ldm/fashion_mnist', 0.7),
                                         ('sd/photo_patches_quick', 0.7), ('lite_ldm/photo_patches_quick', 0.3),
                                         ('sd_ddsm/photo_patches_quick', 0.6), ('sd_ddsm/fashion_mnist', 0.65)])
def test_samples_are_recognised(name, least, tmp_path):
    assert sample.main([name, '--out', str(tmp_path / 'x.npz'), '-n', '60', '--steps', '10']) == 0
    images = torch.from_numpy(np.load(tmp_path / 'x.npz')['images']).permute(0, 3, 1, 2) / 127.5 - 1
    data = name.partition('/')[2].removesuffix('_quick')
    network, _ = load_classifier(f'configs/classifiers/{data}.safetensors')
    right = network(images).argmax(1) == torch.arange(60) % {'fashion_mnist': 10, 'photo_patches': 12}[data]
    assert right.float().mean() >= least


def test_a_config_without_weights_names_those_with_some(capsys):
    assert sample.main(['sd/ffhq', '--out', 'x.png']) == 2
    error = capsys.readouterr().err
    assert 'sd/ffhq came without weights' in error and 'sd/fashion_mnist' in error


def test_the_zoo_is_small():
    """Networks that come with slimdiff: at most 8 MB; the classifiers of the metrics: at most 1 MB."""
    configs = installation_roots()[0] / 'configs'
    networks, classifiers = (list(configs.glob(f'{place}/*.safetensors'))
                             for place in ('*/*_weights/**', 'classifiers'))
    assert len(networks) == len(zoo()) and sum(file.stat().st_size for file in networks) <= 8e6
    assert len(classifiers) == 2 and sum(file.stat().st_size for file in classifiers) <= 1e6
    assert all((zoo_weights(name) / 'README.md').is_file() for name in zoo())


def test_what_came_with_slimdiff_is_found_from_any_folder(tmp_path, monkeypatch):
    """The weights and the allocation of the cards' commands: other images than at full width."""
    monkeypatch.chdir(tmp_path)
    weights = 'configs/sd_ddsm/photo_patches_quick_weights'
    for name, words in (('full', []), ('aware', [weights, '--allocation', f'{weights}/allocation.json'])):
        assert sample.main(['sd_ddsm/photo_patches_quick', *words, '--out', f'{name}.npz', '-n', '2',
                            '--steps', '4']) == 0
    full, aware = (np.load(f'{name}.npz')['images'].astype(int) for name in ('full', 'aware'))
    assert 1 < np.abs(full - aware).mean() < 60
