"""``slimdiff train CONFIG``: train the model of a config."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from slimdiff.cli.common import (
    add_config_arguments,
    add_launcher_argument,
    add_trust_argument,
    default_work_dir,
    load_checked_config,
    runs_cleanly,
)
from slimdiff.cli.dry_run import dry_run

if TYPE_CHECKING:
    from mmengine.config import Config


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='slimdiff train', description='Train a model.')
    add_config_arguments(parser)
    parser.add_argument('--work-dir', help="where the run's files go (default: work_dirs/<folder>/<config>)")
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='go on from this checkpoint, or from the newest good one in the work dir')
    parser.add_argument('--overwrite', action='store_true',
                        help='start from scratch in a work dir that holds another run (its checkpoints are removed); '
                        'with --resume CHECKPOINT: go on from there, without those of later iterations')
    parser.add_argument('--amp', action='store_true', help='bf16 autocast, on CPU and GPU')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the learning rate linearly with the batch size (all ranks, accumulation), from '
                        'auto_scale_lr.base_batch_size of the config')
    parser.add_argument('--keep-batch', action='store_true',
                        help='on fewer GPUs than the config is for: accumulate gradients up to its batch '
                        '(auto_scale_lr.base_batch_size), and stretch the schedule accordingly')
    parser.add_argument('--dry-run', action='store_true',
                        help='three iterations on random data, without the dataset: what would training cost here?')
    parser.add_argument('--compile', action='store_true', help='torch.compile the network')
    parser.add_argument('--track', action='append', choices=('tensorboard', 'wandb'),
                        help='also log there (once for each); the package must be installed')
    add_trust_argument(parser)
    add_launcher_argument(parser)
    args = parser.parse_args(argv)
    if args.resume == 'auto' and args.overwrite:
        parser.error('--overwrite starts from scratch, --resume goes on from the newest checkpoint: give one of them, '
                     'or name the checkpoint to go back to')
    return args


def training_config(args: argparse.Namespace) -> Config:
    """The config that :func:`main` trains with these arguments."""
    cfg = load_checked_config(args, ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'))
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(default_work_dir(args.config))
    if args.amp:
        cfg.optim_wrapper.type = 'Bf16OptimWrapper'
        for loop in ('val_cfg', 'test_cfg'):
            if cfg.get(loop):
                cfg[loop].amp = True
    if args.track:
        from slimdiff.engine.tracking import add_trackers
        add_trackers(cfg, args.track)
    if args.auto_scale_lr:
        cfg.auto_scale_lr = {**(cfg.get('auto_scale_lr') or {}), 'enable': True}
    if args.keep_batch:
        import os

        from slimdiff.configuration.effective_batch import keep_batch, processes
        keep_batch(cfg, processes(os.environ, args.launcher))
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    for name in ('overwrite', 'trust_config'):
        if getattr(args, name):
            cfg[name] = True
    return cfg


def run(args: argparse.Namespace) -> Any:
    """Train with these arguments; returns the Runner."""
    cfg = training_config(args)
    from slimdiff.engine import SlimRunner
    runner = SlimRunner.from_cfg(cfg)
    if args.compile:
        runner.unwrapped_model.unet.compile()
    runner.train()
    return runner


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    """Train; returns the exit status."""
    args = parse(argv)
    if args.dry_run:
        return dry_run(training_config(args), args.compile)
    run(args)
    return 0
