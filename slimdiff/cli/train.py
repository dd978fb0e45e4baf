"""``slimdiff train CONFIG``: train what the config describes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from slimdiff.cli.common import (
    add_config_arguments,
    add_launcher_argument,
    default_work_dir,
    load_checked_config,
    runs_cleanly,
)

if TYPE_CHECKING:
    from mmengine.config import Config


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='slimdiff train', description='Train a model.')
    add_config_arguments(parser)
    parser.add_argument('--work-dir', help="where the run's files go (default: work_dirs/<folder>/<config>)")
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='go on from this checkpoint, or from the newest good one in the work dir')
    parser.add_argument('--overwrite', action='store_true',
                        help='start anew in a work dir that holds another run (its checkpoints are removed)')
    parser.add_argument('--amp', action='store_true', help='bf16 autocast, on CPU and GPU')
    parser.add_argument('--compile', action='store_true', help='torch.compile the network')
    add_launcher_argument(parser)
    return parser.parse_args(argv)


def training_config(args: argparse.Namespace) -> Config:
    """The config that :func:`main` trains with these arguments."""
    cfg = load_checked_config(args)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(default_work_dir(args.config))
    if args.amp:
        cfg.optim_wrapper.type = 'Bf16OptimWrapper'
        for loop in ('val_cfg', 'test_cfg'):
            if cfg.get(loop):
                cfg[loop].amp = True
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if args.overwrite:
        cfg.overwrite = True
    return cfg


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    """Train; returns the exit status."""
    args = parse(argv)
    cfg = training_config(args)
    from slimdiff.engine import SlimRunner
    runner = SlimRunner.from_cfg(cfg)
    if args.compile:
        runner.unwrapped_model.unet.compile()
    runner.train()
    return 0
