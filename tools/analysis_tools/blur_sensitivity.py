"""Blur sensitivity of every offline metric on PhotoPatches: a figure and its numbers.

    python tools/analysis_tools/blur_sensitivity.py --num-images 2000
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from slimdiff.checkpoint import write_json
from slimdiff.datasets.photo_patches import PhotoPatches
from slimdiff.evaluation import BandwiseDenoisingError
from slimdiff.evaluation.record import provenance

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # studies/ is not part of the installed package

from studies.blur import blur_sensitivity, blur_table, plot_blur_sensitivity

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


def section(result: dict) -> str:
    """What the documentation includes."""
    size = int(result['data'].split()[2].split('x')[0])
    figures = ['fd', f'swd/{size}', 'swd/16', 'spectrum/power/top', 'spectrum/log/top', 'spectrum/power/top_signed',
               'spectrum/log/top_signed', 'denoise/total', 'denoise/top']
    table = blur_table(result, list(dict.fromkeys(figures)), (0.1, 0.3, 0.5, 1.0, 5.0))
    return (f'{table}\n{result["data"]}; made by `{result["command"]}` on {result["machine"]}, PyTorch '
            f'{result["versions"]["torch"]}, in {result["seconds"]:.0f} s.\n')


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--num-images', type=int, default=2000, help='in each of the two sets')
    parser.add_argument('--image-size', type=int, default=32)
    parser.add_argument('--splits', type=int, default=5, help='random halvings for the floor')
    parser.add_argument('--figure', default='docs/en/_static/blur_sensitivity.png')
    parser.add_argument('--json', default='benchmarks/results/blur_sensitivity.json')
    parser.add_argument('--markdown', default='docs/en/experiments/_generated/blur_sensitivity.md',
                        help='the table of the documentation')
    args = parser.parse_args(argv)

    dataset = PhotoPatches(image_size=args.image_size, split='val')
    paired = BandwiseDenoisingError(num_images=min(args.num_images, 500))
    start = time.monotonic()
    result = blur_sensitivity(dataset, METRICS, args.num_images, splits=args.splits, paired=paired, progress=print)
    result = dict(
        what='metrics of Gaussian-blurred validation crops A against other, clean crops B; floor: clean against clean',
        **provenance('blur_sensitivity.py', sys.argv[1:] if argv is None else argv),
        seconds=round(time.monotonic() - start, 1),
        data=f'PhotoPatches, val, {args.image_size}x{args.image_size}, {args.num_images} images a set',
        kernel=9,
        **result)
    for path in (args.figure, args.markdown):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_json(args.json, result)
    Path(args.markdown).write_text(section(result), encoding='utf-8')
    plot_blur_sensitivity(result, panels(args.image_size), args.figure)
    print(f'wrote {args.figure}, {args.json} and {args.markdown}')


if __name__ == '__main__':
    main()
