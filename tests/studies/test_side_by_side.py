"""Images land where they belong in the picture; the command draws what mean_spectra.py has made."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from studies.side_by_side import image_rows, plot_side_by_side


def test_each_image_is_at_its_place():
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 2, 2)
    canvas = image_rows(images, 2, 3)
    assert canvas.shape == (5, 8, 3)
    expected = np.array([[0, 0, 255, 1, 1, 255, 2, 2]] * 2 + [[255] * 8] + [[3, 3, 255, 4, 4, 255, 5, 5]] * 2)
    assert np.array_equal(canvas[..., 0], expected)


def test_too_few_images():
    with pytest.raises(ValueError, match='need 6, got 5'):
        image_rows(torch.zeros(5, 3, 2, 2, dtype=torch.uint8), 2, 3)


def test_the_picture_is_written(tmp_path):
    sets = {name: torch.zeros(4, 3, 8, 8, dtype=torch.uint8) for name in ('real', 'net')}
    spectra = dict(frequencies=[0.125, 0.25, 0.375, 0.5], sets={'net': dict(power=dict(ratio=[0.0, 0.1, -0.1, 0.0]))})
    plot_side_by_side(sets, ['real', 'net'], spectra, tmp_path / 'x.png', rows=2, columns=2)
    assert min(Image.open(tmp_path / 'x.png').size) > 200


def test_the_command(tmp_path, run_tool):
    config = 'configs/lite_ldm/photo_patches_16px.py'
    (tmp_path / 'images').mkdir()
    np.savez(tmp_path / 'images' / 'abc.npz', images=np.zeros((4, 3, 16, 16), np.uint8))
    (tmp_path / 'mean_spectra.json').write_text(json.dumps(dict(
        sources={'Lite': [dict(config=config, sha256='abc')]}, frequencies=[0.1, 0.2, 0.4],
        sets={'Lite': dict(power=dict(ratio=[0.0, 0.0, 0.0]))})))
    run_tool('analysis_tools/side_by_side.py', tmp_path, '--rows', 2, '--columns', 2, '--out', tmp_path / 'y.png')
    assert Image.open(tmp_path / 'y.png').format == 'PNG'
