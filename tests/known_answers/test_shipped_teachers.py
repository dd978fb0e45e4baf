"""The shipped teachers against what slimdiff 0.1 computed with them (float32, CPU).

They have another layout since, and their large layers are rounded to 8 bits, which moves a pixel by about 0.01.
"""

from pathlib import Path

import pytest
import torch

from slimdiff.models.backbones import load_folder

FOLDERS = Path(__file__).resolve().parents[2] / 'configs/ldm'
#: folder -> size, labels, and of each sample's prediction: mean, standard deviation, values at [0, 3, 5] and [2, 8, 8]
ANSWERS = {
    'photo_patches_16px_weights': (16, [0, 3, 11, 12], [
        (0.001338, 1.434814, -0.420931, -0.107824), (0.035455, 1.569918, -1.265578, -1.819732),
        (0.022751, 1.008014, -0.934433, 1.937459), (-0.033214, 0.983145, -1.445787, -0.95075)]),
    'photo_patches_weights': (32, [0, 3, 11, 12], [
        (-0.004265, 1.411017, -2.997955, 0.854643), (0.034881, 1.561244, 0.552411, -1.391809),
        (0.023409, 1.04468, -1.010774, 0.080272), (-0.020806, 1.002385, -0.576241, 0.454741)]),
}


@pytest.mark.parametrize('name', ANSWERS)
def test_predictions_are_those_of_before(name):
    size, labels, expected = ANSWERS[name]
    network = load_folder(FOLDERS / name).eval()
    x = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = network(x, torch.tensor([0, 10, 500, 999]), class_labels=torch.tensor(labels)).sample
    rows = [(y.mean(), y.std(), y[0, 3, 5], y[2, 8, 8]) for y in found]
    found, expected = torch.tensor(rows), torch.tensor(expected)
    torch.testing.assert_close(found[:, :2], expected[:, :2], rtol=0, atol=4e-3)
    torch.testing.assert_close(found[:, 2:], expected[:, 2:], rtol=0, atol=4e-2)
