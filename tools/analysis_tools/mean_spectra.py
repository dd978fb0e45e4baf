#!/usr/bin/env python
"""Mean reduced spectra of real images and of what networks generate: a figure, a table and their numbers.

    python tools/analysis_tools/mean_spectra.py --num-images 2400 \\
        --model Lite=configs/lite_ldm/photo_patches_16px.py,work_dirs/lite/iter_10000.pth \\
        --model SD=configs/sd/photo_patches_16px.py,work_dirs/sd/iter_10000.pth

One name several times: networks from several training seeds. Interrupted, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from slimdiff.cli.common import runs_cleanly

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # studies/ is not part of the installed package

DOCS = dict(json='benchmarks/results', png='docs/en/_static', md='docs/en/experiments/_generated',
            images='work_dirs/mean_spectra')


def parse_model(text: str) -> SimpleNamespace:
    """NAME=CONFIG,CHECKPOINT."""
    name, equals, rest = text.partition('=')
    config, comma, checkpoint = rest.rpartition(',')
    if not (name and equals and config and comma and checkpoint):
        raise argparse.ArgumentTypeError(f"expected NAME=CONFIG,CHECKPOINT, got '{text}'")
    return SimpleNamespace(name=name, config=config, checkpoint=checkpoint)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', type=parse_model, action='append', required=True, metavar='NAME=CONFIG,CHECKPOINT',
                        help='repeat for each network; the first one\'s config gives the real images')
    parser.add_argument('--num-images', type=int, default=2400, help='of each network, and of the real ones')
    parser.add_argument('--steps', type=int, help='denoising steps; by default the config\'s')
    parser.add_argument('--seed', type=int, default=0, help='of the generated images, the same for all networks')
    parser.add_argument('--batch-size', type=int, default=100)
    parser.add_argument('--weights', choices=('ema', 'online'), default='ema')
    parser.add_argument('--out', help='a folder for everything; by default the places of the documentation')
    args = parser.parse_args(argv)
    if args.num_images < 2 or args.batch_size < 1:
        parser.error('--num-images must be at least 2 and --batch-size at least 1.')
    return args


def load(spec: SimpleNamespace, weights: str) -> tuple[Any, dict[str, Any], functools.partial]:
    """Config of a model, what its images depend on, and a function that builds it."""
    from slimdiff.checkpoint import find_path
    from slimdiff.cli.sample import build_model
    from slimdiff.configuration import check_config, load_config
    from slimdiff.models.serving import serving_config
    from studies.image_sets import content_hash
    cfg = load_config(spec.config)
    check_config(cfg)
    path = Path(find_path(spec.checkpoint) or spec.checkpoint)
    if not path.exists():
        raise FileNotFoundError(2, 'no such checkpoint', str(path))
    if (path / 'unet').is_dir():  # a pipeline
        path = path / 'unet'
    settings = dict(model=serving_config(cfg.model), checkpoint=content_hash(path), weights=weights)
    return cfg, settings, functools.partial(build_model, cfg, path, weights)


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    folders = {kind: Path(args.out or folder) for kind, folder in DOCS.items()}

    import torch

    from slimdiff.arguments import plain
    from slimdiff.evaluation.record import provenance, publish
    from slimdiff.registry import DATASETS
    from studies.image_sets import generated_images, real_halves
    from studies.spectra import compare_spectra, reduced_spectra
    from studies.spectra_report import plot_spectra, spectra_section, spectra_table
    loaded = [load(spec, args.weights) for spec in args.model]  # all of them first: an error should come at once
    sets: dict[str, list[Any]] = {}
    sources: dict[str, list[dict[str, Any]]] = {}
    sampling = {} if args.steps is None else dict(num_steps=args.steps)
    for spec, (_, settings, build) in zip(args.model, loaded):
        file = (folders['images'] / 'images' if args.out else folders['images']) / f'{settings["checkpoint"]}.npz'
        images = generated_images(file, settings, build, args.num_images, args.seed, args.batch_size, sampling,
                                  f'sampling {spec.name}')
        classes = settings['model'].get('num_classes')  # sampled in turn
        sets.setdefault(spec.name, []).append(
            reduced_spectra(images, torch.arange(len(images)) % classes if classes else None))
        sources.setdefault(spec.name, []).append(dict(config=spec.config, checkpoint=spec.checkpoint,
                                                      sha256=settings['checkpoint']))
    first = loaded[0][0]
    halves = real_halves(DATASETS.build(plain(first.val_dataloader.dataset)), args.num_images)
    real, other = (reduced_spectra(*half) for half in halves)
    steps = args.steps or first.model.get('num_steps', 50)
    result = dict(provenance('mean_spectra.py', argv), what='mean reduced spectra; ratios are natural logarithms',
                  sources=sources, steps=steps, seed=args.seed, **compare_spectra(real, sets, other))
    publish('mean_spectra', folders, result, lambda path: plot_spectra(result, path), spectra_section(result),
            spectra_table(result))
    return 0


if __name__ == '__main__':
    sys.exit(main())
