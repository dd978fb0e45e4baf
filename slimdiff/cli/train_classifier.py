"""``slimdiff train_classifier CONFIG``: a small classifier of a data set's images, for the metric ClassAccuracy."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from slimdiff.cli.common import add_config_arguments, load_checked_config, runs_cleanly


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='slimdiff train_classifier',
        description="Train a classifier of 163,000 parameters on a config's train_dataloader, and measure it on its "
        'test_dataloader (or val_dataloader). A file of configs/_base_/datasets/ will do as CONFIG.')
    add_config_arguments(parser)
    parser.add_argument('--out', required=True, help='file to write, *.safetensors')
    parser.add_argument('--epochs', type=float, default=3, help='passes over the training images')
    parser.add_argument('--batch-size', type=int, default=128)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    if args.epochs <= 0 or args.batch_size < 2:
        parser.error('--epochs must be above 0 and --batch-size at least 2')
    if Path(args.out).suffix != '.safetensors':
        parser.error(f"--out must end in .safetensors, got '{args.out}'")
    return args


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    """Train, measure, write; returns the exit status."""
    args = parse(argv)
    cfg = load_checked_config(args, ('train_dataloader', ))

    import torch
    from torch.utils.data import DataLoader

    from slimdiff.arguments import plain
    from slimdiff.datasets import build_dataloader
    from slimdiff.evaluation.classifier import SmallClassifier, accuracy, save_classifier, train_classifier
    from slimdiff.progress import Progress
    from slimdiff.registry import DATASETS
    held_out = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if not held_out:
        raise ValueError(f'{args.config} has neither a test_dataloader nor a val_dataloader to measure on.')
    train = build_dataloader({**plain(cfg.train_dataloader), 'batch_size': args.batch_size}, seed=args.seed)
    test = DATASETS.build(plain(held_out['dataset']))
    names, others = (list((getattr(data, 'metainfo', None) or {}).get('classes') or ())
                     for data in (train.dataset, test))
    sample = train.dataset[0]
    if len(names) < 2 or names != others or 'labels' not in sample or 'inputs' not in sample:
        raise ValueError(f'{args.config}: a classifier needs images of the same two or more named classes in training '
                         f'and test set; they have {", ".join(names) or "none"} and {", ".join(others) or "none"}.')
    channels, height, width = sample['inputs'].shape
    if height != width or height % 2:
        raise ValueError(f'{args.config}: the classifier takes square images of an even size, got {height} x {width}.')

    start = time.monotonic()
    iterations = max(1, round(args.epochs * len(train.dataset) / args.batch_size))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        network = SmallClassifier(names, channels, height)
    with Progress(iterations * args.batch_size, 'training') as bar:
        train_classifier(network, iter(train), iterations, progress=bar.update)
    seconds = time.monotonic() - start
    right, count = accuracy(network, DataLoader(test, 500))
    save_classifier(network, args.out, dict(data=plain(cfg.train_dataloader.dataset), iterations=iterations,
                                            batch_size=args.batch_size, seed=args.seed, accuracy=right, images=count))
    print(f'{right:.2%} of {count:,} test images right, {sum(p.numel() for p in network.parameters()):,} parameters, '
          f'{seconds:.0f} s of training; wrote {args.out}')
    return 0
