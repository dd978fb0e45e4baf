"""The features of the packages of the extra `features`; their weights are real, so what they see can be checked."""

import sys

import pytest
import torch
from torch.nn import functional as F

from slimdiff.datasets.photo_patches import load_photo
from slimdiff.evaluation import EfficientNetLite0, FrechetDistance
from slimdiff.optional import MissingPackageError


@pytest.fixture(scope='module')
def extractor():
    return EfficientNetLite0()


def photo(name, size):
    pixels = torch.from_numpy(load_photo(name, 300).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    side = min(pixels.shape[-2:])
    left = (pixels.shape[-1] - side) // 2
    return F.interpolate(pixels[..., :side, left:left + side], (size, size), mode='bilinear', antialias=True)


def test_the_classes_of_known_photos_are_in_the_features():
    """Channels in another order, another scaling or another padding lose them."""
    extractor = EfficientNetLite0(size=224)
    images = torch.cat([photo('chelsea', 224), photo('coffee', 224)])
    features = extractor(images)
    assert features.shape == (2, extractor.num_features)
    assert extractor.network._fc(features).argmax(1).tolist() == [285, 967]  # ImageNet's Egyptian cat, espresso


def test_features_are_the_pooled_ones_of_the_enlarged_image(extractor):
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    pixels = F.interpolate((x + 1) * 127.5, scale_factor=2, mode='bilinear')
    expected = extractor.network.extract_features((pixels - 127) / 128).mean((2, 3))
    torch.testing.assert_close(extractor(x), expected, rtol=1e-3, atol=1e-3)


def test_grey_images_are_those_of_three_equal_channels(extractor):
    grey = torch.rand(4, 1, 32, 32) * 2 - 1
    rows = []
    for images in (grey, grey.repeat(1, 3, 1, 1)):
        metric = FrechetDistance(extractor)
        metric.update(images, real=True)
        rows.append(metric.rows(True)['features'])
    torch.testing.assert_close(*rows)


@pytest.mark.parametrize('shape, message', [((32, 40), 'square images .* got 32 x 40.* size=64'),
                                            ((256, 256), 'at most 64 pixels .* 256 x 256.* size=256')])
def test_images_that_do_not_fit_the_size(extractor, shape, message):
    with pytest.raises(ValueError, match=message):
        extractor(torch.zeros(1, 3, *shape))


@pytest.mark.parametrize('size', [48, 0, 64.0])
def test_a_size_that_does_not_fit_the_network(size):
    with pytest.raises(ValueError, match='size must be a multiple of 32 pixels'):
        EfficientNetLite0(size)


def test_without_the_packages_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'efficientnet_lite_pytorch', None)
    with pytest.raises(MissingPackageError, match=r"EfficientNetLite0 needs .*efficientnet_lite_pytorch.*\[features\]"):
        EfficientNetLite0()
