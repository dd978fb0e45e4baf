import numpy as np
import pytest
import torch
from PIL import Image

from slimdiff.sampling.images import image_format, save_grid, save_image, to_uint8


def test_to_uint8_rounds_to_nearest_and_clamps():
    x = torch.tensor([-1.0, 1.0, 0.0, 2.0, -3.0, 1 / 255]).view(1, 1, 1, 6)
    assert to_uint8(x).flatten().tolist() == [0, 255, 128, 255, 0, 128]
    values = torch.arange(256, dtype=torch.float32).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(values / 127.5 - 1), values.to(torch.uint8))


def test_nan_has_no_colour():
    assert to_uint8(torch.tensor([torch.inf, -torch.inf])).tolist() == [255, 0]
    with pytest.raises(ValueError, match='NaN: the network diverges'):
        to_uint8(torch.tensor([[[[0, torch.nan]]]]))


def test_png_round_trip(tmp_path):
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    save_image(image, tmp_path / 'x.png')
    assert np.array_equal(np.asarray(Image.open(tmp_path / 'x.png')), image.permute(1, 2, 0).numpy())
    assert [p.name for p in tmp_path.iterdir()] == ['x.png']
    save_image(image[:1], tmp_path / 'grey.png')
    assert Image.open(tmp_path / 'grey.png').mode == 'L'


@pytest.mark.parametrize('name, kind', [('a.jpg', 'JPEG'), ('a.PNG', 'PNG'), ('a.JpEg', 'JPEG'), ('b.webp', 'WEBP'),
                                        ('b.tiff', 'TIFF'), ('b.bmp', 'BMP'), ('folder', None), ('v1.0', None)])
def test_the_ending_says_the_format(tmp_path, name, kind):
    assert image_format(tmp_path / name) == kind
    if kind is not None:
        save_grid(torch.full((2, 3, 8, 8), 200, dtype=torch.uint8), tmp_path / name)
        with Image.open(tmp_path / name) as picture:
            assert picture.format == kind and picture.size == (18, 8)
            assert abs(picture.convert('L').getpixel((3, 4)) - 200) < 3
    with pytest.raises(ValueError, match=r"x\.psd: pictures can't be written as \.psd here.*use \.png"):
        image_format('x.psd')


def test_grid_places_every_image(tmp_path):
    images = torch.stack([torch.full((3, 2, 2), 10 * i, dtype=torch.uint8) for i in range(5)])
    save_grid(images, tmp_path / 'grid.png', columns=3, gap=1, zoom=2)
    grid = np.asarray(Image.open(tmp_path / 'grid.png'))
    assert grid.shape == (10, 16, 3)
    assert [grid[0, 0, 0], grid[0, 6, 0], grid[0, 12, 0], grid[6, 0, 0], grid[6, 6, 0]] == [0, 10, 20, 30, 40]
    assert grid[0, 4, 0] == grid[4, 0, 0] == grid[6, 12, 0] == 255
