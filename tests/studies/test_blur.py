import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from slimdiff.datasets.photo_patches import PhotoPatches
from slimdiff.evaluation import BandwiseDenoisingError
from studies.blur import (
    SIGMA2,
    blur_sensitivity,
    blur_table,
    gaussian_blur,
    gaussian_kernel,
    plot_blur_sensitivity,
)

METRICS = [dict(type='FrechetDistance'), dict(type='LaplacianSWD'), dict(type='RadialSpectrumDistance')]
# Figures that see the highest octave are off their floor from sigma^2 = 0.3 on. The 16 px level of the pyramid lies
# below that octave, and so does the lowest band: a blur of 0.3 hardly touches them. They rise too, and leave their
# floors with wider kernels.
SHARP = ['fd', 'swd/32', 'swd/mean', 'denoise/total', 'denoise/mid', 'denoise/top'] + [
    f'spectrum/{version}/{part}' for version in ('power', 'log') for part in ('whole', 'top')]
ALL = [*SHARP, 'swd/16', 'denoise/low']


def test_blur_equals_scipy():
    x = torch.randn(2, 3, 24, 20, dtype=torch.float64)
    for sigma2 in (0.5, 3.0):
        expected = x.numpy()
        for axis in (-1, -2):
            expected = gaussian_filter1d(expected, sigma2**0.5, axis=axis, mode='mirror', radius=4)
        np.testing.assert_allclose(gaussian_blur(x, sigma2).numpy(), expected, atol=1e-6)
    torch.testing.assert_close(gaussian_blur(x, 0.0), x)
    assert gaussian_kernel(2.0).sum().item() == pytest.approx(1)
    with pytest.raises(ValueError, match='size=8'):
        gaussian_kernel(1.0, 8)


def check_rise(result):
    """Every figure rises from sigma^2 = 0.3 on; every sharp one is above its floor there; the sign says what is
    missing."""
    start = result['sigma2'].index(0.3)
    for name in ALL:
        curve = result['curves'][name][start:]
        assert all(b > a for a, b in pairwise(curve)), (name, curve)
    for name in SHARP:
        floor = result['floor'][name]
        assert result['curves'][name][start] > floor['mean'] + 4 * floor['std'], name
    for version in ('power', 'log'):
        curve, floor = (result[key][f'spectrum/{version}/top_signed'] for key in ('curves', 'floor'))
        assert curve[start] < floor['mean'] - 4 * floor['std'] and sorted(curve[start:], reverse=True) == curve[start:]


def test_every_metric_rises_with_blur(tmp_path):
    result = blur_sensitivity(PhotoPatches(image_size=32, split='val'), METRICS, num_images=240,
                              sigma2=(0.3, 0.5, 1.0, 5.0), splits=3, paired=BandwiseDenoisingError(num_images=120))
    check_rise(result)
    plot_blur_sensitivity(result, {'fd': ['fd'], 'signed': ['spectrum/log/top_signed']}, str(tmp_path / 'blur.png'))
    assert (tmp_path / 'blur.png').stat().st_size > 5000


@pytest.mark.slow
def test_every_metric_rises_with_blur_over_the_whole_list():
    result = blur_sensitivity(PhotoPatches(image_size=32, split='val'), METRICS, num_images=2000,
                              paired=BandwiseDenoisingError(num_images=500))
    check_rise(result)
    # The floors that docs and figure state: 2,000 images against 2,000, five splits.
    assert result['floor']['fd']['mean'] < 0.005 and result['floor']['swd/32']['mean'] < 15
    assert result['floor']['swd/16']['mean'] < 35
    assert all(abs(result['floor'][f'spectrum/{v}/top_signed']['mean']) < 0.05 for v in ('power', 'log'))


def test_the_committed_figure_shows_the_same():
    root = Path(__file__).parents[2]
    result = json.loads((root / 'benchmarks/results/blur_sensitivity.json').read_text())
    assert tuple(result['sigma2']) == SIGMA2 and result['kernel'] == 9
    check_rise(result)
    assert (root / 'docs/en/_static/blur_sensitivity.png').is_file()


def test_the_table_of_the_page_has_the_committed_numbers():
    root = Path(__file__).parents[2]
    result = json.loads((root / 'benchmarks/results/blur_sensitivity.json').read_text())
    page = (root / 'docs/en/experiments/_generated/blur_sensitivity.md').read_text()
    rows = blur_table(result, ['fd', 'spectrum/log/top_signed'], (0.1, 0.3, 0.5, 1.0, 5.0)).splitlines()
    assert all(row in page.splitlines() for row in rows) and result['command'] in page
    i = result['sigma2'].index(0.5)
    assert f'{result["curves"]["fd"][i]:.3g}' == rows[2].split(' | ')[4]


def test_the_command(run_tool, tmp_path):
    run_tool('analysis_tools/blur_sensitivity.py', '--num-images', 24, '--image-size', 32, '--splits', 2, '--figure',
             'a/b.png', '--json', 'a/b.json', '--markdown', 'c/b.md')
    result = json.loads((tmp_path / 'a/b.json').read_text())
    assert result['command'].startswith('python tools/analysis_tools/blur_sensitivity.py --num-images 24')
    assert '| `swd/32` |' in (tmp_path / 'c/b.md').read_text() and (tmp_path / 'a/b.png').stat().st_size > 5000
