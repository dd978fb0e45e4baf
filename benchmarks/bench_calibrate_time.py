"""Calibrated plans against what a user would pick by hand, as curves over *measured* time, on a trained network.

By default the shipped Fashion-MNIST teacher, with its own sampler. Each rival is a curve: fewer steps of the same
sampler; features, the last prediction or the line through two of them between full steps at equal intervals (DeepCache,
TaylorSeer of first order); the shipped small network at the first steps (T-Stitch); and for our transformers diffusers'
``FirstBlockCacheConfig`` at several thresholds. All begin with the same noise, which no calibration has seen, and take
turns batch by batch, so that whatever else the machine does slows all alike. *Time* is that of the processor, as a
share of the full pipeline's. *Divergence* is the mean squared distance to the full pipeline's samples; the Frechet
distance to real images is that of the features of the shipped classifier. Spreads are standard deviations over seeds of
noise. ``bench_calibrate.py`` compares at equal MACs.

    python benchmarks/bench_calibrate_time.py --json benchmarks/results/calibrate/time_unet_dpm_25.json
    slimdiff train configs/dit/fashion_mnist_small.py --work-dir work_dirs/dit
    python benchmarks/bench_calibrate_time.py --model work_dirs/dit/iter_2000.pth --small '' --json \\
        benchmarks/results/calibrate/time_dit_dpm_25.json
    python benchmarks/bench_calibrate_time.py --figure docs/en/_static/calibrate_time.png
"""

from __future__ import annotations

import argparse
import random
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, FirstBlockCacheConfig
from diffusers.hooks import HookRegistry, apply_first_block_cache
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.hooks.hooks import CacheContext, _set_cache_context
from matplotlib.figure import Figure
from torch import Tensor, nn

import slimdiff
from slimdiff.calibration import Plan
from slimdiff.calibration.frontier import every, prefix
from slimdiff.calibration.inputs import call_of
from slimdiff.calibration.run import Calibration
from slimdiff.checkpoint import read_json, write_json
from slimdiff.datasets import build_dataloader
from slimdiff.evaluation.classifier import load_classifier
from slimdiff.evaluation.metrics.frechet import frechet_distance, gaussian_moments
from slimdiff.evaluation.record import cpu_name, rounded, versions
from slimdiff.models.backbones.dit import DiT
from slimdiff.sampling import build_scheduler, image_generators
from slimdiff.tables import text_table

#: first seed of the noise by which plans are compared; calibrations use 0
FRESH = 1_000_003
OURS = 'calibrated'


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--model', default='ldm/fashion_mnist', help='of Fashion-MNIST: a path, or a name of the zoo')
    parser.add_argument('--small', default='lite_ldm/fashion_mnist', help="the smaller one; '' for none")
    parser.add_argument('--steps', type=int, default=25)
    parser.add_argument('--scheduler', default='DPMSolverMultistepScheduler')
    parser.add_argument('--images', type=int, default=100, help='that plans are compared by, for each seed')
    parser.add_argument('--batch', type=int, default=50)
    parser.add_argument('--seeds', type=int, default=3, help='of the noise')
    parser.add_argument('--calibrated', type=int, default=8, help='images that the calibration samples')
    parser.add_argument('--budgets', nargs='+', type=float, default=[0.8, 0.65, 0.5, 0.4, 0.3, 0.2])
    parser.add_argument('--intervals', nargs='+', type=int, default=[2, 3, 4, 6])
    parser.add_argument('--thresholds', nargs='+', type=float, default=[0.05, 0.1, 0.2, 0.3, 0.5])
    parser.add_argument('--out', help='folder of the calibration (default: a temporary one)')
    parser.add_argument('--json', type=Path)
    parser.add_argument('--figure', type=Path, help='measure nothing: draw what is in benchmarks/results/calibrate')
    return parser.parse_args(argv)


def draw(path: Path) -> None:
    """A panel for each ``time_NETWORK_SAMPLER_STEPS.json``: divergence over time, a line for each method."""
    files = sorted(Path(__file__).with_name('results').glob('calibrate/time_*.json'))
    figure = Figure(figsize=(4.6 * len(files), 4.2), layout='constrained')
    panels = figure.subplots(1, len(files), squeeze=False)[0]
    colours: dict[str, str] = {OURS: 'black'}
    for panel, file in zip(panels, files):
        record = read_json(file, 'Measure it again.')
        for curve in dict.fromkeys(row['curve'] for row in record['rows']):
            points = sorted((row['time'], row['divergence']) for row in record['rows'] if row['curve'] == curve)
            if curve != 'full':
                colour = colours.setdefault(curve, f'C{len(colours) - 1}')
                panel.plot(*zip(*points), marker='o', markersize=4, color=colour, label=curve,
                           zorder=3 - (curve != OURS), linewidth=2.5 if curve == OURS else 1)
        panel.set(yscale='log', xlabel="processor time, the full pipeline's = 1",
                  title=f'{file.stem.split("_")[1]}, {record["steps"]} steps of\n{record["scheduler"]}')
        panel.grid(alpha=0.3)
    panels[0].set_ylabel('mean squared distance to its samples')
    handles = {label: line for panel in panels for line, label in zip(*panel.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc='outside lower center', ncols=4, fontsize=9)
    figure.savefig(path, dpi=110)


@contextmanager
def first_block_cache(network: DiT, threshold: float) -> Iterator[None]:
    """diffusers' first-block cache on our transformer, for one sampling."""
    # Its hooks look for `hidden_states`; our blocks call them x, and take them first.
    TransformerBlockRegistry.register(type(network.blocks[0]),
                                      TransformerBlockMetadata(_cached_parameter_indices=dict(hidden_states=0)))
    apply_first_block_cache(network, FirstBlockCacheConfig(threshold))
    _set_cache_context(network, CacheContext('cond'))
    try:
        yield
    finally:
        for block in network.blocks:
            hooks = HookRegistry.check_if_exists_or_initialize(block)
            for name in list(hooks.hooks):
                hooks.remove_hook(name, recurse=False)


def sampler(pipe: DiffusionPipeline, steps: int) -> Callable[[int, Sequence[int]], tuple[Tensor, float]]:
    """(seed, numbers of images) -> samples (N, C, H, W), and the seconds of the processor that they took."""

    def sample(seed: int, part: Sequence[int]) -> tuple[Tensor, float]:
        begin = time.process_time()
        images = pipe(labels=[i % 10 for i in part], num_inference_steps=steps, output_type='latent',
                      generator=image_generators(FRESH + seed, part)).images
        return images.clamp(-1, 1), time.process_time() - begin

    return sample


def contenders(pipe: DiffusionPipeline, calibration: Calibration, plans: dict[float, Plan], small: nn.Module | None,
               args: argparse.Namespace) -> dict[tuple[str, str], Callable]:
    """(curve, point) -> how it samples."""
    full, fewer = sampler(pipe, args.steps), [round(budget * args.steps) for budget in args.budgets]

    def planned(plan: Plan) -> Callable:

        def sample(seed: int, part: Sequence[int]) -> tuple[Tensor, float]:
            slimdiff.apply(pipe, plan, also=small)
            try:
                return full(seed, part)
            finally:
                slimdiff.remove(pipe)

        return sample

    def cached(threshold: float) -> Callable:

        def sample(seed: int, part: Sequence[int]) -> tuple[Tensor, float]:
            with first_block_cache(pipe.unet.network, threshold):
                return full(seed, part)

        return sample

    found = {('full', ''): full}
    found |= {(OURS, f'budget {budget:g}'): planned(plan) for budget, plan in plans.items()}
    found |= {('fewer steps', f'{n} steps'): sampler(pipe, n) for n in fewer}
    for name in ('features', 'prediction', 'extrapolate'):
        found |= {(f'{name} at equal intervals', f'every {n}'):
                  planned(calibration.plan_of(every(n, name, args.steps))) for n in args.intervals}
    if small is not None:
        found |= {('small network first', f'first {args.steps - n}'):
                  planned(calibration.plan_of(prefix('also', args.steps - n, args.steps))) for n in fewer}
    if isinstance(pipe.unet.network, DiT):
        found |= {('first-block cache', f'threshold {value:g}'): cached(value) for value in args.thresholds}
    return found


def at_equal_time(rows: list[dict[str, Any]]) -> None:
    """Add to each rival its divergence over ours at the same time, on the line between our plans' logarithms."""
    ours = sorted((row['time'], row['divergence']) for row in rows if row['curve'] == OURS)
    times, logs = np.array([time for time, _ in ours]), np.log([divergence for _, divergence in ours])
    logs = np.minimum.accumulate(logs)  # whoever has more time may take the plan that is better and faster
    for row in rows:
        if row['curve'] not in ('full', OURS) and times[0] <= row['time'] <= times[-1]:
            row['over_ours'] = row['divergence'] / float(np.exp(np.interp(row['time'], times, logs)))


def main(argv: list[str] | None = None) -> None:
    """Calibrate for each budget, compare, print and write."""
    args = parse(argv)
    if args.figure:
        draw(args.figure)
        return
    pipe, small = slimdiff.load(args.model), slimdiff.load(args.small).unet if args.small else None
    pipe.scheduler = build_scheduler(dict(type=args.scheduler), base=pipe.scheduler)
    pipe.set_progress_bar_config(disable=True)
    classifier, _ = load_classifier('configs/classifiers/fashion_mnist.safetensors')
    loader = build_dataloader(dict(batch_size=250, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
                                   dataset=dict(type='FashionMNIST', split='test', image_size=32)))

    def features_of(images: Tensor) -> Tensor:
        return torch.cat([classifier.features(part).mean((2, 3)) for part in images.split(250)])

    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        real = gaussian_moments(torch.cat([features_of(batch['inputs']) for batch in loader]))
        inputs, identity, weight = call_of(pipe, args.calibrated, args.steps, labels=range(args.calibrated))
        calibration = Calibration(pipe, inputs, args.out or folder, identity, weight,
                                  also=None if small is None else (small, args.small))
        plans, found = {}, []
        for budget in args.budgets:
            outcome = calibration.run(budget, 'ms')
            plans[budget] = outcome.plan
            found.append(dict(budget=budget, runs=outcome.runs, rank_correlation=outcome.correlation,
                              plan=outcome.plan.describe()))
            print(found[-1], flush=True)
        ways = contenders(pipe, calibration, plans, small, args)
        images: dict[Any, dict[int, list[Tensor]]] = {key: {} for key in ways}
        seconds: dict[Any, list[float]] = {key: [] for key in ways}
        shuffle = random.Random(0)
        for seed in range(args.seeds):
            for start in range(0, args.images, args.batch):
                part = range(start, min(start + args.batch, args.images))
                for key in shuffle.sample(list(ways), len(ways)):
                    batch, took = ways[key](seed, part)
                    images[key].setdefault(seed, []).append(batch)
                    seconds[key].append(took)
            print(f'seed {seed} of the noise done', flush=True)
        rows = []
        reference = {seed: torch.cat(parts) for seed, parts in images['full', ''].items()}
        for (curve, point), by_seed in images.items():
            got = {seed: torch.cat(parts) for seed, parts in by_seed.items()}
            distances = [float((got[seed] - reference[seed]).square().mean()) for seed in got]
            frechet = [float(frechet_distance(*gaussian_moments(features_of(x)), *real)) for x in got.values()]
            shares = np.array(seconds[curve, point]) / np.array(seconds['full', ''])
            rows.append(dict(curve=curve, point=point, time=float(np.median(shares)), time_std=float(shares.std()),
                             divergence=float(np.mean(distances)), divergence_std=float(np.std(distances)),
                             frechet=float(np.mean(frechet)), frechet_std=float(np.std(frechet))))
        at_equal_time(rows)
    names = ('curve', 'point', 'time', 'divergence', 'divergence_std', 'frechet', 'frechet_std', 'over_ours')
    print(text_table(names, [[v if isinstance(v := row.get(name, ''), str) else f'{v:.3g}' for name in names]
                             for row in rows], 2))
    if args.json:
        write_json(args.json, dict(command=shlex.join(['python', *sys.argv]), versions=versions(),
                                   machine=f'{cpu_name()}, {torch.get_num_threads()} threads', steps=args.steps,
                                   scheduler=args.scheduler, images=args.images, seeds=args.seeds,
                                   full_seconds=round(float(np.median(seconds['full', ''])), 3),
                                   calibrations=rounded(found), rows=rounded(rows)))


if __name__ == '__main__':
    main()
