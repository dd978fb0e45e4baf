"""``slimdiff print_config CONFIG``: the whole config, bases and overrides merged, its names checked."""

from __future__ import annotations

import argparse
from pathlib import Path

from slimdiff.cli.common import add_config_arguments, load_checked_config, runs_cleanly


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='slimdiff print_config', description='Print a config with its bases and overrides merged.')
    add_config_arguments(parser)
    parser.add_argument('--out', metavar='FILE', help='write it to this file instead (.py, .json or .yaml)')
    args = parser.parse_args(argv)
    if args.out and Path(args.out).suffix not in ('.py', '.json', '.yaml', '.yml'):
        parser.error(f"--out must end in .py, .json or .yaml, got '{args.out}'")
    return args


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    """Print; returns the exit status."""
    args = parse(argv)
    cfg = load_checked_config(args, ())
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        cfg.dump(args.out)
        print(f'written to {args.out}')
    else:
        print(cfg.pretty_text)
    return 0
