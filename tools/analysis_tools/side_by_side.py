#!/usr/bin/env python
"""Draw images and spectra of networks side by side, from what mean_spectra.py has made.

    python tools/analysis_tools/mean_spectra.py --model Teacher=... --model Lite=... --model SD=... --out work_dirs/pair
    python tools/analysis_tools/side_by_side.py work_dirs/pair --out picture.png
"""

import argparse
import json
import sys
from pathlib import Path

from slimdiff.cli.common import runs_cleanly

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # studies/ is not part of the installed package


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', help='the --out of mean_spectra.py')
    parser.add_argument('--out', default='side_by_side.png')
    parser.add_argument('--rows', type=int, default=2)
    parser.add_argument('--columns', type=int, default=12, help='images are in turn of the classes')
    args = parser.parse_args(argv)

    import numpy as np
    import torch

    from slimdiff.arguments import plain
    from slimdiff.configuration import load_config
    from slimdiff.evaluation.cost import human
    from slimdiff.evaluation.unet_cost import unet_cost
    from slimdiff.models.serving import serving_config
    from slimdiff.registry import DATASETS, MODELS
    from slimdiff.sampling.images import to_uint8
    from studies.side_by_side import plot_side_by_side
    folder = Path(args.folder)
    spectra = json.loads((folder / 'mean_spectra.json').read_text(encoding='utf-8'))
    sets, titles = {}, []
    for name, runs in spectra['sources'].items():
        config = load_config(runs[0]['config'])
        if not sets:
            data = DATASETS.build(plain(config.val_dataloader.dataset))
            sets['real'] = to_uint8(torch.stack([data[i]['inputs'] for i in range(args.rows * args.columns)]))
            titles.append('real')
        with np.load(folder / 'images' / f'{runs[0]["sha256"]}.npz', allow_pickle=False) as file:
            sets[name] = torch.from_numpy(file['images'][:args.rows * args.columns])
        cost = unet_cost(MODELS.build(serving_config(config.model)))
        titles.append(f'{name}: {human(cost.conv_linear_macs)} MACs, {human(cost.params)} parameters')
    plot_side_by_side(sets, titles, spectra, args.out, args.rows, args.columns)
    print(f'wrote {args.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
