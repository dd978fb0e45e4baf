"""``slimdiff search CONFIG CHECKPOINT``: which width each denoising step gets, for a budget.

The work dir holds the state: the same command goes on where an earlier one was stopped or killed, with an identical
outcome, and another budget picks from a finished search at once.
"""

from __future__ import annotations

import argparse
import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from slimdiff.cli.common import (
    add_captions_argument,
    add_checkpoint_argument,
    add_config_arguments,
    add_launcher_argument,
    add_trust_argument,
    default_work_dir,
    load_checked_config,
    runs_cleanly,
    use_captions,
)

#: seconds between two pictures of the front
INTERVAL = 20


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='slimdiff search', description='Search a width for each denoising step.')
    add_config_arguments(parser)
    add_checkpoint_argument(parser)
    parser.add_argument('--work-dir', help='state and results (default: work_dirs/<...>/search)')
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument('--budget', type=float, help="of allocation.json: a fraction of the full network's MACs, as "
                        "0.5 (default: the config's search.budget, else the best quality at any cost)")
    budget.add_argument('--budget-macs', type=float, help='the same in MACs for one image through all steps')
    budget.add_argument('--budget-latency', type=float, help='the same in seconds for one image, as measured here '
                        '(needs search.latency)')
    parser.add_argument('--weights', choices=('ema', 'online'), default='ema')
    parser.add_argument('--samples', type=int, default=16, help='images in each grid of the report; 0 for none')
    add_captions_argument(parser)
    add_trust_argument(parser)
    add_launcher_argument(parser)
    args = parser.parse_args(argv)
    if args.samples < 0:
        parser.error(f'--samples must be 0 or more, got {args.samples}')
    return args


def budget_of(args: argparse.Namespace) -> dict[str, float] | None:
    """The budget on the command line."""
    given = dict(fraction=args.budget, macs=args.budget_macs, latency=args.budget_latency)
    return next(({kind: value} for kind, value in given.items() if value is not None), None)


def trained_widths(unet: Mapping[str, Any]) -> tuple[float, ...] | None:
    """The widths that a network was trained at, by its config in a checkpoint; None if that is empty."""
    if not unet:
        return None
    widths = unet.get('widths') or unet.get('_networks')  # these are by width: a step-aware folder's
    if not widths and unet.get('type'):
        from slimdiff.models.backbones.load import find_class
        parameter = inspect.signature(find_class(unet['type'])).parameters.get('widths')
        widths = None if parameter is None or parameter.default is parameter.empty else parameter.default
    return tuple(map(float, widths or (1.0, )))


def check_trained(checkpoint: str | Path, unet: Mapping[str, Any], wanted: Iterable[float]) -> None:
    """Raise ValueError if the search asks for a width that the checkpoint's network was not trained at.

    The weights would load all the same: a slimmable network has the dense one's.
    """
    trained = trained_widths(unet)
    missing = [] if trained is None else sorted(set(map(float, wanted)) - set(trained))
    if missing:
        raise ValueError(f'The search asks for width {", ".join(f"{w:g}" for w in missing)}, but {checkpoint} was '
                         f'trained at {", ".join(f"{w:g}" for w in trained)}. Set search.space.widths to some of '
                         'these, or train a checkpoint with more (model.unet.widths).')


def live_plot(path: Path) -> Callable[[Any], None]:
    """A callback of :meth:`Search.run` that draws the front now and then."""
    from slimdiff.search.report import plot_search
    last = 0.0

    def draw(search: Any) -> None:
        nonlocal last
        if time.monotonic() - last > INTERVAL:
            plot_search(search, path)
            last = time.monotonic()

    return draw


def run_and_report(search: Any, title: str, samples: int = 16) -> Any:
    """Run ``search`` with a live picture of its front, and write ``report.html``; returns the outcome."""
    from mmengine.dist import is_main_process

    from slimdiff.search.report import plot_search, write_report
    outcome = search.run(live_plot(search.work_dir / 'front.png'))
    if is_main_process():
        plot_search(search, search.work_dir / 'front.png')
        write_report(search, outcome, search.work_dir / 'report.html', samples, title)
    return outcome


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    """Search; prints the result and what it cost, and returns the exit status."""
    args = parse(argv)
    cfg = load_checked_config(args)
    use_captions(cfg, args.captions)
    work_dir = Path(args.work_dir or default_work_dir(args.config) / 'search')

    from mmengine.dist import barrier, init_dist, is_distributed, is_main_process

    from slimdiff.arguments import plain
    from slimdiff.cli.sample import load_model
    from slimdiff.datasets import build_dataloader
    from slimdiff.engine.distributed import init_cpu_process_group, leave_at_exit
    from slimdiff.search import Search
    from slimdiff.search.run import default_config
    from slimdiff.search.widths import widths_of
    init_cpu_process_group(args.launcher)
    if args.launcher != 'none' and not is_distributed():
        init_dist(args.launcher)
    leave_at_exit()
    config = plain(cfg.get('search') or default_config(cfg.get('val_dataloader') is not None))
    model, trained = load_model(cfg, args.checkpoint, args.weights, trust_config=args.trust_config)
    check_trained(args.checkpoint, trained, (config.get('space') or {}).get('widths') or widths_of(model))
    loader = None if cfg.get('val_dataloader') is None else build_dataloader(cfg.val_dataloader)
    search = Search(model, config, work_dir, loader, budget_of(args))
    if is_main_process():
        print(f'{search.space.size:.4g} allocations of {search.space.num_segments} segments at most; state and results '
              f'in {work_dir}')
    outcome = run_and_report(search, f'Search: {Path(args.config).stem}', args.samples)
    if is_main_process():
        print(outcome.describe())
        print(f'wrote {", ".join(str(work_dir / n) for n in ("allocation.json", "front.json", "front.csv"))} and '
              f'{work_dir / "report.html"}')
    barrier()
    return 0
