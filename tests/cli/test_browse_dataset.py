from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from slimdiff.cli.browse_dataset import CAPTION, GAP, caption_of, draw_samples, fit_text, main
from slimdiff.datasets import PhotoPatches

ROOT = Path(__file__).resolve().parents[2]
CONFIG = '''
train_dataloader = dict(batch_size=2, sampler=dict(type='ResumableSampler'),
                        dataset=dict(type='PhotoPatches', image_size=16, length=5, photos=['brick', 'coffee']))
'''


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(CONFIG)
    return str(path)


def tile(picture, i, columns, side):
    left, top = i % columns * (side + GAP), i // columns * (side + CAPTION + GAP)
    return picture[top:top + side, left:left + side], picture[top + side:top + side + CAPTION, left:left + side]


def test_the_picture_holds_the_pixels_of_the_samples(config, tmp_path, capsys):
    out = tmp_path / 'new' / 'grid.png'
    assert main([config, '--out', str(out), '--columns', '2', '--start', '1', '-n', '99']) == 0
    assert '4 of 5 images of the train set' in capsys.readouterr().out
    picture = np.asarray(Image.open(out))
    assert picture.shape == (2 * (64 + CAPTION) + GAP, 2 * 64 + GAP, 3)  # 16 pixels enlarged by 4
    dataset = PhotoPatches(16, photos=['brick', 'coffee'])
    for i in range(4):
        pixels, caption = tile(picture, i, 2, 64)
        inputs = dataset[i + 1]['inputs'].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(pixels[::4, ::4] / 127.5 - 1, inputs, atol=1e-6)
        assert (pixels[1::4, 3::4] == pixels[::4, ::4]).all()
        assert caption.min() < 128 < caption.max()  # there is a text


def test_captions():
    dataset = PhotoPatches(photos=['brick', 'coffee'])
    assert caption_of(dataset, 7, dataset[7]) == 'coffee'
    assert caption_of(dataset, 7, dict(inputs=None)) == '7'
    assert caption_of(object(), 7, dict(labels=torch.tensor(3))) == '3'
    with pytest.raises(ValueError, match='Label out of range: image 7 has label 2'):
        caption_of(dataset, 7, dict(labels=2))


def test_long_captions_are_cut_to_the_image():
    from PIL import ImageDraw
    draw = ImageDraw.Draw(Image.new('RGB', (1, 1)))
    cut = fit_text(draw, 'a name much too long for it', 64)
    assert 'a name much too long for it'.startswith(cut) and 40 < draw.textlength(cut) <= 64
    assert draw_samples([dict(inputs=torch.zeros(3, 100, 100))], ['x']).size == (100, 100 + CAPTION)


@pytest.mark.parametrize('arguments, message', [
    (['--split', 'val'], 'has no val_dataloader; --split may be train'),
    (['--start', '5'], 'beyond the last index of the train set, 4'),
    (['--cfg-options', 'train_dataloader.dataset.photos=["brik"]'], "Did you mean 'brick'"),
    (['--cfg-options', 'train_dataloader.dataset.photos=[brick]'], 'The words in a list need quotes'),
])
def test_errors_are_one_message(config, arguments, message, capsys):
    assert main([config, *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('arguments', [['-n', '0'], ['--zoom', '0'], ['--out', 'grid.jpg']])
def test_bad_arguments(config, arguments):
    with pytest.raises(SystemExit):
        main([config, *arguments])


def test_skipped_images_are_told(tmp_path, capsys):
    Image.new('RGB', (20, 20), (255, 0, 0)).save(tmp_path / 'a.png')
    (tmp_path / 'b.png').write_bytes(b'nothing')
    config = tmp_path / 'config.py'
    config.write_text("val_dataloader = dict(batch_size=1, sampler=dict(type='DefaultSampler'), dataset=dict("
                      f"type='ImageFolder', data_root={str(tmp_path)!r}, image_size=16, on_error='skip'))")
    assert main([str(config), '--split', 'val', '--out', str(tmp_path / 'out.PNG')]) == 0
    assert '1 unreadable: b.png' in capsys.readouterr().out


def test_tool_and_shipped_config_work_from_another_directory(tmp_path, run_tool):
    run_tool('misc/browse_dataset.py', 'configs/_base_/datasets/photo_patches.py', '--split', 'test')
    assert Image.open(tmp_path / 'dataset.png').size == (12 * (64 + GAP) - GAP, 4 * (64 + CAPTION + GAP) - GAP)
