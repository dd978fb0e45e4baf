"""Cosine against linear schedule: steps spent where high frequencies are decided. A figure and its numbers.

    python tools/analysis_tools/noise_schedules.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from slimdiff.checkpoint import write_json
from slimdiff.cli.common import runs_cleanly
from slimdiff.datasets.photo_patches import PhotoPatches
from slimdiff.evaluation.record import provenance
from slimdiff.progress import Progress

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # studies/ is not part of the installed package

from studies.schedules import (
    BAND_EDGES,
    SCHEDULES,
    WINDOW,
    compare_schedules,
    mean_spectrum,
    plot_schedules,
    schedule_table,
)


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--image-sizes', type=int, nargs='+', default=[16, 32], help='of PhotoPatches')
    parser.add_argument('--num-images', type=int, default=6000, help='training crops for the mean spectrum')
    parser.add_argument('--out', help='folder for noise_schedules.json and .png; by default those of the docs')
    args = parser.parse_args(argv)
    results = {}
    with Progress(len(args.image_sizes), 'spectra', unit='size') as progress:
        for size in args.image_sizes:
            spectrum = mean_spectrum(PhotoPatches(image_size=size, split='train'), args.num_images)
            results[f'PhotoPatches {size} px'] = compare_schedules(spectrum)
            progress.update()
    numbers = Path(args.out or 'benchmarks/results') / 'noise_schedules.json'
    figure = Path(args.out or 'docs/en/_static') / 'noise_schedules.png'
    write_json(numbers, dict(**provenance('noise_schedules.py', argv), num_images=args.num_images, split='train',
                             band_edges=BAND_EDGES, window=WINDOW, arguments=SCHEDULES, data=results))
    print(schedule_table(results), end='')
    figure.parent.mkdir(parents=True, exist_ok=True)
    plot_schedules(results, figure)
    print(f'wrote {numbers} and {figure}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
