import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from slimdiff.datasets import ImageFolder, PhotoPatches, RandomSamples
from slimdiff.datasets.check_images import check_images
from slimdiff.evaluation.common import shard_loader


class Images(list):
    def __init__(self, images):
        super().__init__(dict(inputs=torch.as_tensor(image, dtype=torch.float32)) for image in images)


def folder_of(path, images):
    path.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(path / f'{i}.png')
    return path


def test_normalised_images_are_refused_also_where_all_values_are_allowed(tmp_path):
    """Divided by 255 they lie in 0..1, grey levels all the same: training would run on black."""
    rng = np.random.default_rng(0)
    folder = folder_of(tmp_path / 'x', rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8))
    dataset = ImageFolder(folder, image_size=8, pipeline=[
        dict(type='LoadImage'), dict(type='Normalize', mean=[0] * 3, std=[255] * 3), dict(type='PackImage')])
    for check in (check_images, lambda found: shard_loader(DataLoader(found))):
        with pytest.raises(ValueError, match=r'ImageFolder: .* in \[-1, -0.992\d*\]: .* all but one shade.*Normalize'):
            check(dataset)
    check_images(ImageFolder(folder, image_size=8))


def test_images_of_0_to_255_are_refused():
    with pytest.raises(ValueError, match=r'lie in \[0, 255\], but a model takes images in \[-1, 1\]'):
        check_images(Images([torch.full((3, 2, 2), 255.), torch.zeros(3, 2, 2)]))


def test_dark_images_and_few_bright_pixels_are_fine():
    black = -torch.ones(1, 28, 28)
    digits = [black.clone() for _ in range(10)]
    digits[9][0, 14, 14] = 1
    check_images(Images(digits))
    check_images(Images([black]))  # one image may be black
    check_images(Images([]))
    check_images(Images([black, black + 3 / 127.5]))
    for dataset in (PhotoPatches(8), RandomSamples((3, 8, 8)), [dict(latents=torch.zeros(4, 2, 2))] * 3):
        check_images(dataset)


def test_a_data_set_is_looked_at_once():
    class Counted(torch.utils.data.Dataset):
        read = []

        def __len__(self):
            return 1000

        def __getitem__(self, i):
            self.read.append(i)
            return dict(inputs=torch.full((1, 2, 2), i / 1000))

    dataset = Counted()
    for _ in range(2):
        check_images(dataset)
    assert dataset.read == [0, 142, 285, 428, 570, 713, 856, 999]
