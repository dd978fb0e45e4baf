import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from slimdiff.datasets.transforms import LoadImage, PackImage, ResizeShortSide, to_rgb
from slimdiff.registry import TRANSFORMS


def load(path):
    """RGB pixels of a file through LoadImage."""
    return LoadImage()(dict(img_path=str(path)))['img'][:, :, ::-1]


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    for name in ('a.png', 'a.tif'):
        Image.fromarray(values).save(tmp_path / name)
        assert load(tmp_path / name)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_16_bit_grey_as_older_pillow_opens_it():
    image = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.int32))
    image.format = 'PNG'
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize('dtype', [np.int32, np.float32])
def test_32_bit_pixels_are_refused(tmp_path, dtype):
    Image.fromarray(np.ones((4, 4), dtype)).save(tmp_path / 'a.tif')
    with pytest.raises(ValueError, match='32 bit'):
        load(tmp_path / 'a.tif')


def test_transparency_is_laid_over_white(tmp_path):
    pixels = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 51]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    # alpha 51 is 0.2: 0.2 * (200, 0, 0) + 0.8 * 255
    assert load(tmp_path / 'a.png').tolist() == [[[200, 0, 0], [255, 255, 255], [244, 204, 204]]]
    black = LoadImage(background=(0, 0, 0))(dict(img_path=str(tmp_path / 'a.png')))['img']
    assert black[0, 1].tolist() == [0, 0, 0]


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode='P')
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / 'a.png')
    assert load(tmp_path / 'a.png').tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
    image.save(tmp_path / 'b.png', transparency=1)
    assert load(tmp_path / 'b.png').tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]


def test_grey_grey_with_alpha_and_cmyk(tmp_path):
    Image.fromarray(np.array([[7, 200]], np.uint8)).save(tmp_path / 'grey.png')
    assert load(tmp_path / 'grey.png').tolist() == [[[7] * 3, [200] * 3]]
    Image.merge('LA', [Image.new('L', (1, 1), 7), Image.new('L', (1, 1), 0)]).save(tmp_path / 'la.png')
    assert load(tmp_path / 'la.png').tolist() == [[[255] * 3]]
    Image.new('CMYK', (8, 8), (0, 255, 255, 0)).save(tmp_path / 'cmyk.tif')
    assert load(tmp_path / 'cmyk.tif')[0, 0].tolist() == [255, 0, 0]
    assert to_rgb(Image.new('1', (1, 1), 1)).getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation_is_applied(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned: show the stored image rotated by 90 degrees clockwise
    image.save(tmp_path / 'a.png', exif=exif)
    np.testing.assert_array_equal(load(tmp_path / 'a.png'), np.rot90(pixels, -1))


@pytest.mark.parametrize('size, expected', [((80, 40), (32, 16)), ((40, 80), (16, 32)), ((16, 21), (16, 21)),
                                            ((5, 5), (16, 16)), ((1000, 16), (1000, 16)), ((31, 100), (16, 52))])
def test_resize_short_side(size, expected):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    out = ResizeShortSide(16)(dict(img=np.asarray(image)))['img']
    np.testing.assert_array_equal(out, np.asarray(image.resize(expected, Image.Resampling.LANCZOS)))


def test_pack_image_by_hand():
    image = np.zeros((1, 2, 3), np.uint8)
    image[0, 0] = (255, 0, 51)  # BGR
    packed = PackImage()(dict(img=image, gt_label=np.int64(3), img_path='x'))
    assert set(packed) == {'inputs', 'labels'} and packed['labels'] == 3 and packed['inputs'].dtype == torch.float32
    torch.testing.assert_close(packed['inputs'][:, 0, 0], torch.tensor([-0.6, -1.0, 1.0]))
    packed = PackImage(bgr_to_rgb=False)(dict(img=image))
    torch.testing.assert_close(packed['inputs'][:, 0, 0], torch.tensor([1.0, -1.0, -0.6]))
    assert 'labels' not in packed


def test_bad_arguments():
    with pytest.raises(ValueError, match='size must be an integer'):
        ResizeShortSide(0)
    with pytest.raises(ValueError, match=r'\(H, W, 3\), got \(4, 4\)'):
        PackImage()(dict(img=np.zeros((4, 4), np.uint8)))


@pytest.mark.parametrize('low, high', [(-2.1, 2.6), (0, 255.5), (-1e-3, 1), (np.nan, 3)])
def test_values_that_are_no_grey_levels_are_refused(low, high):
    image = np.full((2, 2, 3), high, np.float32)
    image[0, 0, 0] = low
    with pytest.raises(ValueError, match=r'must lie in 0\.\.255, got .* \(float32\).*such as Normalize'):
        PackImage()(dict(img=image))
    floats = np.linspace(0, 255, 12, dtype=np.float32).reshape(2, 2, 3)
    assert PackImage()(dict(img=floats))['inputs'].aminmax() == (-1, 1)


def test_normalize_before_pack_image_is_refused():
    step = TRANSFORMS.build(dict(type='Normalize', mean=[127.5] * 3, std=[127.5] * 3, to_rgb=False))
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match='must lie in 0..255, got -'):
        PackImage()(step(dict(img=image)))


def test_registered_next_to_those_of_mmcv():
    for name in ('LoadImage', 'ResizeShortSide', 'PackImage', 'CenterCrop', 'RandomFlip'):
        assert TRANSFORMS.get(name) is not None


def png_with(*chunks):
    """A PNG file of random pixels with extra chunks (name, content) before and after the pixels, and its pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'PNG')
    content = file.getvalue()
    extra = b''.join(struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
                     for name, data in chunks)
    head, end = 8 + 25, len(content) - 12  # signature and header; the closing chunk
    return content[:head] + extra + content[head:end] + extra + content[end:], pixels


@pytest.mark.parametrize('chunk', [
    (b'eXIf', b'not EXIF'),
    (b'eXIf', b'MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\xff\xff\xff\xff'),
    (b'zTXt', b'comment\0\0' + zlib.compress(b'x' * 2_000_000)),
    (b'iTXt', b'comment\0\1\0\0\0' + zlib.compress(b'x' * 2_000_000)),
    (b'iCCP', b'profile\0\0' + zlib.compress(bytes(2_000_000))),
], ids=['exif', 'short exif', 'zTXt', 'iTXt', 'profile'])
def test_what_is_wrong_with_metadata_does_not_matter_to_pixels(chunk):
    content, pixels = png_with(chunk)
    loaded = LoadImage().transform(dict(img_path='a.png', img_bytes=content))
    np.testing.assert_array_equal(loaded['img'][:, :, ::-1], pixels)
    with pytest.raises(OSError, match='truncated'):  # damaged pixels are found as before
        LoadImage().transform(dict(img_path='a.png', img_bytes=content[:content.index(b'IDAT') + 20]))


def test_malformed_exif_of_a_jpeg():
    file = io.BytesIO()
    Image.new('RGB', (8, 8), (10, 200, 30)).save(file, 'JPEG', exif=b'Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03')
    assert LoadImage().transform(dict(img_path='a.jpg', img_bytes=file.getvalue()))['img'].shape == (8, 8, 3)
