"""The linear denoiser: trained filters against the closed form, error against SNR. A figure and its numbers.

    python tools/analysis_tools/wiener.py

Interrupted, it goes on where it stopped: the JSON file holds what is done.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from slimdiff.cli.common import runs_cleanly
from slimdiff.evaluation.record import provenance

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # studies/ is not part of the installed package

from studies.wiener_study import plot_wiener, run_wiener, wiener_table


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--betas', type=float, nargs='+', default=[1.0, 2.0, 3.0], help='power spectra 1/f^beta')
    parser.add_argument('--timesteps', type=int, nargs='+', default=[50, 150, 300, 450, 600])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--image-size', type=int, default=32)
    parser.add_argument('--iterations', type=int, default=2000)
    parser.add_argument('--out', help='folder for wiener.json and wiener.png; by default those of the docs')
    args = parser.parse_args(argv)
    numbers = Path(args.out or 'benchmarks/results') / 'wiener.json'
    figure = Path(args.out or 'docs/en/_static') / 'wiener.png'
    result = run_wiener(numbers, args.betas, args.timesteps, args.seeds, args.image_size, args.iterations,
                        extra=provenance('wiener.py', argv))
    print(wiener_table(result), end='')
    figure.parent.mkdir(parents=True, exist_ok=True)
    plot_wiener(result, figure)
    print(f'wrote {numbers} and {figure}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
