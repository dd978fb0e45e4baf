"""``slimdiff search CONFIG CHECKPOINT``: find a width for each denoising step within a budget.

The work dir holds the state: the same command goes on where an earlier one was stopped or killed, with an identical
outcome, and another budget picks from a finished search at once.
"""

from __future__ import annotations

import argparse
import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from slimdiff.sampling import Run

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


def trained_runs(unet: Mapping[str, Any]) -> set[Run] | None:
    """The widths and depths that a network was trained at, by its config in a checkpoint; None if that is empty."""
    from slimdiff.models.backbones.classes import find_class
    from slimdiff.sampling import Run, StepAllocation
    if not unet:
        return None
    if unet.get('_networks'):  # of a step-aware folder
        said = unet.get('_allocation')
        known = StepAllocation.from_dict(said).runs if said else ()
        return {Run.parse(size, known) for size in unet['_networks']}
    parameters = inspect.signature(find_class(unet['type'])).parameters if unet.get('type') else {}
    widths, depths = (unet.get(axis) or getattr(parameters.get(axis), 'default', None) for axis in ('widths', 'depths'))
    return {Run(width, depth) for width in given_or_full(widths) for depth in given_or_full(depths)}


def given_or_full(shares: Any) -> Sequence[float]:
    """The shares of an axis that a network has, or the whole alone where it has no such axis."""
    return shares if isinstance(shares, (list, tuple)) else (1.0, )


def check_trained(checkpoint: str | Path, unet: Mapping[str, Any], wanted: Iterable[Run]) -> None:
    """Raise ValueError if the search asks for a width or depth that the checkpoint's network was not trained at.

    The weights would load all the same: a slimmable network has the dense one's.
    """
    trained = trained_runs(unet)
    missing = [] if trained is None else sorted(set(wanted) - trained)
    if missing:
        raise ValueError(f'The search asks for width {", ".join(run.size for run in missing)}, but {checkpoint} was '
                         f'trained at {", ".join(run.size for run in sorted(trained))}. Set search.space.widths (and '
                         'depths) to some of these, or train a checkpoint with more (model.unet.widths).')


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

    from mmengine.dist import barrier, is_main_process

    from slimdiff.arguments import plain
    from slimdiff.cli.sample import load_model
    from slimdiff.datasets import build_dataloader
    from slimdiff.engine.distributed import join_processes
    from slimdiff.search import Search
    from slimdiff.search.run import default_config, wanted_runs
    join_processes(args.launcher)
    config = plain(cfg.get('search') or default_config(cfg.get('val_dataloader') is not None))
    model, trained = load_model(cfg, args.checkpoint, args.weights, trust_config=args.trust_config)
    check_trained(args.checkpoint, trained, wanted_runs(config.get('space'), model))
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
