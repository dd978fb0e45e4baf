"""``slimdiff plot_allocation CONFIG ALLOCATION``: the width of each denoising step and the MACs saved, as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from slimdiff.cli.common import add_config_arguments, check_files, load_checked_config, runs_cleanly


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='slimdiff plot_allocation', description='Plot step allocations: steps against width, and the MACs saved '
        '(published convention: convolutions and linear layers).')
    add_config_arguments(parser)
    parser.add_argument('allocations', nargs='+', metavar='ALLOCATION', help='allocation.json of search; several are '
                        'rows of one picture')
    parser.add_argument('--steps', type=int, help="denoising steps (default: the config's)")
    parser.add_argument('--scheduler', help='a diffusers scheduler, such as DPMSolverMultistepScheduler')
    parser.add_argument('--out', default='allocation.png', help='the picture')
    args = parser.parse_args(argv)
    if Path(args.out).suffix != '.png':
        parser.error(f'--out must end in .png, got {args.out}')
    return args


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    """Plot; prints the allocations and what they save, and returns the exit status."""
    args = parse(argv)
    check_files(args)
    from slimdiff.models.backbones.network_set import check_same_timesteps
    from slimdiff.models.backbones.protocol import runs_of
    from slimdiff.models.serving import serving_config
    from slimdiff.registry import MODELS
    from slimdiff.sampling.actions import Reuse
    from slimdiff.sampling.allocation import StepAllocation
    from slimdiff.sampling.denoise import timesteps_of
    from slimdiff.search.allocation_plot import allocation_table, plot_allocations
    from slimdiff.search.costs import count_macs

    # Names that tell the files apart: allocation.json of two searches are named by their folders, too.
    paths = [Path(path) for path in args.allocations]
    stems = [path.stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else [path.with_suffix('').as_posix() for path in paths]
    allocations = {name: StepAllocation.load(path) for name, path in zip(names, paths)}
    cfg = load_checked_config(args)
    model = MODELS.build(serving_config(cfg.model)).eval()
    available = runs_of(model.unet)
    for name, allocation in allocations.items():
        try:
            check_same_timesteps(allocation, model.noise_process)
            allocation.check_runs(available)
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from None
    steps = model.num_steps if args.steps is None else args.steps
    sampler = model.sampler_of(None if args.scheduler is None else dict(type=args.scheduler), steps)
    timesteps = timesteps_of(sampler, steps)
    own = [allocation.timesteps for allocation in allocations.values() if allocation.timesteps is not None]
    if own and len(allocations) > 1:
        raise ValueError('An allocation with timesteps of its own has other steps than the others: plot it alone.')
    timesteps = own[0] if own else timesteps
    actions = {segment.action for allocation in allocations.values() for segment in allocation.segments}
    runs = {run for allocation in allocations.values() for run in allocation.runs} | {available[-1]}
    costs = count_macs(model, sorted(runs), features=Reuse('features') in actions)
    for name, allocation in allocations.items():
        print(f'{name}, {type(sampler).__name__}, {len(timesteps)} steps:\n{allocation.describe(timesteps)}\n')
    print(allocation_table(allocations, timesteps, costs), end='')
    plot_allocations(allocations, timesteps, costs, args.out)
    print(f'\nwritten {args.out}')
    return 0
