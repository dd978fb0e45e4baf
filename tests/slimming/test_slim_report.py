"""The figures of slim's report, of images and processes of any size."""

import pytest
import torch
from torch.utils.data import DataLoader

from slimdiff.evaluation.extractors import RandomConvExtractor, random_extractor
from slimdiff.models import DiffusionModel
from slimdiff.registry import EXTRACTORS
from slimdiff.slimming.report import distances_of, errors_of


def model(side=16, timesteps=1000):
    unet = dict(type='UNet', sample_size=side, norm_groups=4, stages=[dict(channels=8, blocks=1)])
    noise = dict(type='DDPMScheduler', num_train_timesteps=timesteps)
    return DiffusionModel(unet=unet, noise_scheduler=noise, num_steps=1).eval()


def images(side, count=8):
    generator = torch.Generator().manual_seed(0)
    return DataLoader([dict(inputs=torch.rand(3, side, side, generator=generator) * 2 - 1) for _ in range(count)], 4)


@pytest.mark.parametrize('timesteps, edges', [(1000, [0, 100, 300, 600, 900, 1000]), (900, [0, 100, 300, 600, 900]),
                                              (500, [0, 100, 300, 500]), (50, [0, 50])])
def test_timesteps_of_any_process(timesteps, edges):
    one = model(timesteps=timesteps)
    found = errors_of(dict(teacher=one, student=one), images(16), 8)
    assert found['edges'] == edges and found['difference']['denoise/total'] == 0
    assert 0 < found['teacher'][f'denoise/t{edges[-2]}-{edges[-1]}'] < 10


@pytest.mark.parametrize('side', [16, 72])
def test_images_of_any_size(side):
    """EfficientNet-Lite0 is asked at a size that shrinks none; two equal models are equally far."""
    pytest.importorskip('efficientnet_lite_pytorch')
    one = model(side)
    found = distances_of(dict(teacher=one, student=one), images(side), 8)
    assert found['features'] == 'EfficientNetLite0' and found['teacher'] == found['student'] > 0


@pytest.mark.parametrize('side', [4, 5, 9, 10, 19, 20, 32, 256])
def test_random_features_of_any_size(side):
    """As many layers as the images allow, up to the default's three."""
    extractor = EXTRACTORS.build(random_extractor(side))
    layers = len(extractor.channels)
    assert layers == {4: 1, 5: 1, 9: 1, 10: 2, 19: 2}.get(side, 3)
    if side >= 5:
        assert extractor(torch.zeros(1, 3, side, side)).shape == (1, sum((32, 64, 128)[:layers]))
    if layers == 3:
        assert extractor.channels == RandomConvExtractor().channels
