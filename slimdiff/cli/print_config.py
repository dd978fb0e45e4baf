"""``slimdiff print_config CONFIG``: the whole config, bases and overrides merged, its names checked.

In place of a config it takes a checkpoint (.pth), and prints the config that it was trained with.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from slimdiff.cli.common import add_config_arguments, load_checked_config, runs_cleanly

if TYPE_CHECKING:
    from mmengine.config import Config


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='slimdiff print_config', description='Print a config with its bases and overrides merged, or the '
        'one that a checkpoint (.pth) was trained with.')
    add_config_arguments(parser)
    parser.add_argument('--out', metavar='FILE', help='write it to this file instead (.py, .json or .yaml)')
    args = parser.parse_args(argv)
    if args.out and Path(args.out).suffix not in ('.py', '.json', '.yaml', '.yml'):
        parser.error(f"--out must end in .py, .json or .yaml, got '{args.out}'")
    return args


def config_of(checkpoint: Path) -> Config:
    """The config in a checkpoint.

    Raises:
        CheckpointError: missing, unreadable, or without a config.
    """
    from mmengine.config import Config

    from slimdiff.checkpoint import CheckpointError, load_checkpoint
    from slimdiff.checkpoint.plain_data import decode
    config = load_checkpoint(checkpoint)['meta'].get('config')
    if not config:
        raise CheckpointError(f'{checkpoint} holds no config.')
    return Config(decode(config))


def refuse_imports(cfg: Config, args: argparse.Namespace) -> None:
    """Raise ValueError if ``--out`` would make a config file that runs what a checkpoint names; without it, warn."""
    from slimdiff.configuration.check import imports_of
    found = imports_of(cfg._cfg_dict)
    if not found:
        return
    text = f'the config in {args.config} has {", ".join(found[:3])}: used as a config file, it would import that.'
    if args.out:
        raise ValueError(f'{text} Nothing was written. If it is your own, print it without --out and copy it.')
    print(f'warning: {text} Check it before you use it.', file=sys.stderr)


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    """Print; returns the exit status."""
    args = parse(argv)
    if Path(args.config).suffix != '.pth':
        cfg = load_checked_config(args, ())
    else:
        cfg = config_of(Path(args.config))
        refuse_imports(cfg, args)
    from slimdiff.configuration import config_source
    if not args.out:
        print(config_source(cfg))
        return 0
    text = config_source(cfg) if args.out.endswith('.py') else None
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    if text is not None:
        Path(args.out).write_text(text, encoding='utf-8')
    else:
        cfg.dump(args.out)
    print(f'written to {args.out}')
    return 0
