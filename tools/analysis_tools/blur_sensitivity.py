"""Blur sensitivity of every offline metric on PhotoPatches: a figure and its numbers.

    python tools/analysis_tools/blur_sensitivity.py --num-images 2000
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import time
from pathlib import Path

import torch

from slimdiff.analysis.blur import blur_sensitivity, plot_blur_sensitivity
from slimdiff.datasets.photo_patches import PhotoPatches
from slimdiff.evaluation import BandwiseDenoisingError
from slimdiff.version import __version__

METRICS = [dict(type='FrechetDistance'), dict(type='LaplacianSWD'), dict(type='RadialSpectrumDistance')]


def panels(size: int) -> dict[str, list[str]]:
    """Titles and figures of the plot, for images of ``size`` pixels."""
    return {
        'Fréchet distance, random zero-mean features': ['fd'],
        f'Laplacian SWD x 1000, {size} px and 16 px level': [f'swd/{size}', 'swd/16'],
        'radial spectrum: rms log ratio, all': ['spectrum/power/whole', 'spectrum/log/whole'],
        'radial spectrum: rms log ratio, top half': ['spectrum/power/top', 'spectrum/log/top'],
        'radial spectrum: signed log ratio, top half': ['spectrum/power/top_signed', 'spectrum/log/top_signed'],
        'paired denoising error, blurred Wiener filter': ['denoise/total', 'denoise/mid', 'denoise/top'],
    }


def cpu_name() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')), platform.machine())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--num-images', type=int, default=2000, help='in each of the two sets')
    parser.add_argument('--image-size', type=int, default=32)
    parser.add_argument('--splits', type=int, default=5, help='random halvings for the floor')
    parser.add_argument('--figure', default='docs/en/_static/blur_sensitivity.png')
    parser.add_argument('--json', default='benchmarks/results/blur_sensitivity.json')
    args = parser.parse_args(argv)

    dataset = PhotoPatches(image_size=args.image_size, split='val')
    paired = BandwiseDenoisingError(num_images=min(args.num_images, 500))
    start = time.monotonic()
    result = blur_sensitivity(dataset, METRICS, args.num_images, splits=args.splits, paired=paired, progress=print)
    arguments = sys.argv[1:] if argv is None else argv
    command = shlex.join(['python', 'tools/analysis_tools/blur_sensitivity.py', *arguments])
    result = dict(
        what='metrics of Gaussian-blurred validation crops A against other, clean crops B; floor: clean against clean',
        command=command,
        machine=f'{cpu_name()}, {torch.get_num_threads()} threads',
        versions=dict(slimdiff=__version__, torch=torch.__version__, python=platform.python_version()),
        seconds=round(time.monotonic() - start, 1),
        data=f'PhotoPatches, val, {args.image_size}x{args.image_size}, {args.num_images} images a set',
        kernel=9,
        **result)
    for path in (args.figure, args.json):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(args.json).write_text(json.dumps(result, indent=1) + '\n')
    plot_blur_sensitivity(result, panels(args.image_size), args.figure)
    print(f'wrote {args.figure} and {args.json}')


if __name__ == '__main__':
    main()
