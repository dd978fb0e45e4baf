#!/usr/bin/env python
"""What the features of extractors see: real against real images, blurred ones, and a set that lacks a class.

    python tools/analysis_tools/extractor_floors.py configs/_base_/datasets/fashion_mnist.py --sizes 64 96
"""

import argparse
import sys
import time
from pathlib import Path

from slimdiff.cli.common import add_config_arguments, load_checked_config, runs_cleanly

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # studies/ is not part of the installed package


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    parser.add_argument('--num-images', type=int, default=2000, help='in each of the two sets')
    parser.add_argument('--sizes', type=int, nargs='*', default=[64], help='of EfficientNetLite0')
    parser.add_argument('--sigma2', type=float, nargs='*', default=[0.3, 1.0], help='variances of the blur')
    parser.add_argument('--splits', type=int, default=5, help='random halvings for the floor')
    args = parser.parse_args(argv)
    cfg = load_checked_config(args, ('val_dataloader', ))

    import torch

    from slimdiff.arguments import plain
    from slimdiff.evaluation.evaluate import quantise, stratified_split
    from slimdiff.evaluation.metrics import FrechetDistance, KernelDistance
    from slimdiff.registry import DATASETS
    from studies.blur import gaussian_blur
    from studies.image_sets import real_halves
    (ours, labels), (others, other_labels) = real_halves(DATASETS.build(plain(cfg.val_dataloader.dataset)),
                                                         args.num_images)
    changed = {f'σ² = {variance:g}': quantise(gaussian_blur(ours, variance)) for variance in args.sigma2}
    extractors = [dict(type='RandomConvExtractor'), *(dict(type='EfficientNetLite0', size=s) for s in args.sizes)]
    print(f'{len(ours)} against {len(others)} images\n')
    print('| extractor | ms an image | figure | floor | ' + ' | '.join([*changed, 'a class missing']) + ' |')
    print('|---|---|---|---|' + '---|' * (len(changed) + 1))
    for config in extractors:
        metric = FrechetDistance(config)

        def rows(images: torch.Tensor, metric: FrechetDistance = metric) -> dict[str, torch.Tensor]:
            with torch.inference_mode():
                return dict(features=torch.cat([metric.statistics(part)['features'] for part in images.split(100)]))

        start = time.perf_counter()
        a = rows(ours)
        milliseconds = (time.perf_counter() - start) / len(ours) * 1000
        b, sets = rows(others), [rows(images) for images in changed.values()]
        sets.append(dict(features=a['features'][labels != 0]))
        both, generator = torch.cat([a['features'], b['features']]), torch.Generator().manual_seed(0)
        splits = [stratified_split(torch.cat([labels, other_labels]), len(a['features']), generator)
                  for _ in range(args.splits)]
        for kind in (metric, KernelDistance(metric.extractor, subsets=10)):
            floor = torch.tensor([next(iter(kind.distance(dict(features=both[i]), dict(features=both[j])).values()))
                                  for i, j in splits])
            cells = [', '.join(map(str, config.values())), f'{milliseconds:.1f}', f'`{kind.prefix}`',
                     f'{floor.mean():.3g} ± {floor.std():.2g}',
                     *(f'{next(iter(kind.distance(b, other).values())):.3g}' for other in sets)]
            print('| ' + ' | '.join(cells) + ' |', flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
