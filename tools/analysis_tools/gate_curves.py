#!/usr/bin/env python
"""Gates of a wavelet-gated network over the timesteps: a figure, a table and their numbers.

    python tools/analysis_tools/gate_curves.py configs/sd/photo_patches_16px_gated.py work_dirs/gated/iter_10000.pth

Several checkpoints are networks of one config from several training seeds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from slimdiff.cli.common import add_config_arguments, load_checked_config, runs_cleanly

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # studies/ is not part of the installed package

DOCS = dict(json='benchmarks/results', png='docs/en/_static', md='docs/en/experiments/_generated')


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    parser.add_argument('checkpoints', nargs='+', help='one for each training seed')
    parser.add_argument('--num-images', type=int, default=240, help='noised validation images; as many are generated')
    parser.add_argument('--timesteps', type=int, default=21, help='of the noised images, from the last to 0')
    parser.add_argument('--steps', type=int, help='denoising steps of the generated ones; by default the config\'s')
    parser.add_argument('--seed', type=int, default=0, help='of the noise')
    parser.add_argument('--batch-size', type=int, default=80)
    parser.add_argument('--weights', choices=('ema', 'online'), default='ema')
    parser.add_argument('--out', help='a folder for everything; by default the places of the documentation')
    args = parser.parse_args(argv)
    if args.num_images < 2 or args.batch_size < 1:
        parser.error('--num-images must be at least 2 and --batch-size at least 1.')
    return args


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    cfg = load_checked_config(args)
    folders = {kind: Path(args.out or folder) for kind, folder in DOCS.items()}

    from slimdiff.arguments import plain
    from slimdiff.cli.sample import build_model
    from slimdiff.evaluation.gates import even_timesteps, find_gates, gates_on_noised_images, gates_while_sampling
    from slimdiff.evaluation.record import provenance, publish
    from slimdiff.progress import Progress
    from slimdiff.registry import DATASETS
    from studies.gates_report import gates_section, gates_table, plot_gates
    from studies.image_sets import content_hash, real_halves
    models = [build_model(cfg, path, args.weights) for path in args.checkpoints]
    for model in models:  # all checked before the first is measured
        find_gates(model.unet)
    (images, labels), _ = real_halves(DATASETS.build(plain(cfg.val_dataloader.dataset)), args.num_images)
    times = even_timesteps(args.timesteps, models[0].num_train_timesteps)
    steps = args.steps or models[0].num_steps
    runs = []
    with Progress(len(models) * (len(images) * len(times) + args.num_images * steps), 'gates', 'step') as bar:
        for path, model in zip(args.checkpoints, models):
            noised = gates_on_noised_images(model, images, labels, times, args.seed, args.batch_size, bar.update)
            sampled = gates_while_sampling(model, args.num_images, args.seed, args.batch_size, steps, bar.update)
            runs.append(dict(checkpoint=path, sha256=content_hash(path), noised=noised.describe(),
                             sampling=sampled.describe()))
    result = dict(provenance('gate_curves.py', argv), what='gates of wavelet-gated resamplers over timesteps',
                  config=args.config, seed=args.seed, runs=runs)
    publish('gate_curves', folders, result, lambda path: plot_gates(runs, path), gates_section(result),
            gates_table(runs))
    return 0


if __name__ == '__main__':
    sys.exit(main())
