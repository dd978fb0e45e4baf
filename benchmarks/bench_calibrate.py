"""A calibrated plan against what a user would pick by hand, at equal MACs, on a trained network.

By default the shipped Fashion-MNIST teacher, with its own sampler. Rivals at each budget: the full network at equal
intervals and its features (DeepCache) or its prediction in between, the shipped small network at the first steps
(T-Stitch), and fewer steps of the same sampler. All begin with the same noise, which the calibration has not seen.
*Divergence* is the mean squared distance to the full pipeline's samples; the Frechet distance to real images is that of
the features of the shipped classifier.

    nice -n 19 python benchmarks/bench_calibrate.py --json benchmarks/results/calibrate/dpm_25.json
    nice -n 19 python benchmarks/bench_calibrate.py --scheduler DDIMScheduler --steps 50 --json \\
        benchmarks/results/calibrate/ddim_50.json
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

import slimdiff
from slimdiff.calibration import Plan
from slimdiff.calibration.frontier import rivals
from slimdiff.calibration.inputs import call_of
from slimdiff.calibration.run import Calibration, Outcome
from slimdiff.checkpoint import write_json
from slimdiff.datasets import build_dataloader
from slimdiff.evaluation.classifier import load_classifier
from slimdiff.evaluation.metrics.frechet import frechet_distance, gaussian_moments
from slimdiff.evaluation.record import cpu_name, rounded, versions
from slimdiff.sampling import build_scheduler, image_generators
from slimdiff.tables import text_table

#: seed of the images by which plans are compared; calibrations use 0
FRESH = 1_000_003


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--model', default='ldm/fashion_mnist', help='of Fashion-MNIST: a path, or a name of the zoo')
    parser.add_argument('--small', default='lite_ldm/fashion_mnist', help='the smaller one')
    parser.add_argument('--steps', type=int, default=25)
    parser.add_argument('--scheduler', default='DPMSolverMultistepScheduler')
    parser.add_argument('--images', type=int, default=100, help='that plans are compared by')
    parser.add_argument('--calibrated', type=int, default=8, help='images that the calibration samples')
    parser.add_argument('--budgets', nargs='+', type=float, default=[0.75, 0.5, 0.34])
    parser.add_argument('--out', help='folder of the calibration (default: a temporary one)')
    parser.add_argument('--json', type=Path)
    return parser.parse_args(argv)


def sample(pipe: DiffusionPipeline, images: int, steps: int, batch: int = 20) -> tuple[Tensor, float]:
    """Samples (N, C, H, W), and the seconds of the processor that they took: other processes don't count."""
    found, begin = [], time.process_time()
    for start in range(0, images, batch):
        part = range(start, min(start + batch, images))
        found.append(pipe(labels=[i % 10 for i in part], num_inference_steps=steps, output_type='latent',
                          generator=image_generators(FRESH, part)).images)
    return torch.cat(found).clamp(-1, 1), time.process_time() - begin


def features_of(network: nn.Module, images: Tensor) -> Tensor:
    """(N, 96) of images in [-1, 1]."""
    return torch.cat([network.features(part).mean((2, 3)) for part in images.split(250)])


def plans(outcome: Outcome, budget: float) -> dict[str, tuple[str, ...] | int]:
    """Name -> actions, or a number of steps, of ours and of what else fits the budget."""
    steps, full = len(outcome.plan.actions), outcome.options['full'].cost
    limit = budget * full * steps
    return {'calibrated': outcome.plan.actions, **rivals(outcome.options, steps, limit, steps - 1),
            f'{int(budget * steps)} steps': int(budget * steps)}


def main(argv: list[str] | None = None) -> None:
    """Calibrate for each budget, compare, print and write."""
    args = parse(argv)
    pipe, small = slimdiff.load(args.model), slimdiff.load(args.small).unet
    pipe.scheduler = build_scheduler(dict(type=args.scheduler), base=pipe.scheduler)
    pipe.set_progress_bar_config(disable=True)
    classifier, _ = load_classifier('configs/classifiers/fashion_mnist.safetensors')
    loader = build_dataloader(dict(batch_size=250, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
                                   dataset=dict(type='FashionMNIST', split='test', image_size=32)))
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        real = gaussian_moments(torch.cat([features_of(classifier, batch['inputs']) for batch in loader]))

        def judged(images: Tensor) -> float:
            return float(frechet_distance(*gaussian_moments(features_of(classifier, images)), *real))

        reference, seconds = sample(pipe, args.images, args.steps)
        rows: list[dict[str, Any]] = [dict(budget=1.0, name='full', cost=1.0, seconds=seconds, divergence=0.0,
                                           frechet=judged(reference))]
        inputs, identity, weight = call_of(pipe, args.calibrated, args.steps, labels=range(args.calibrated))
        calibration = Calibration(pipe, inputs, args.out or folder, identity, weight,
                                  also=(small, args.small))
        found = []
        for budget in args.budgets:
            outcome = calibration.run(budget)
            found.append(dict(budget=budget, runs=outcome.runs, rank_correlation=outcome.correlation,
                              plan=outcome.plan.describe()))
            for name, actions in plans(outcome, budget).items():
                if isinstance(actions, int):
                    images, seconds = sample(pipe, args.images, actions)
                    cost = actions / args.steps
                else:
                    plan = Plan(actions, outcome.plan.denoiser, outcome.plan.scheduler, calibration.also)
                    slimdiff.apply(pipe, plan, also=small)
                    images, seconds = sample(pipe, args.images, args.steps)
                    slimdiff.remove(pipe)
                    cost = sum(outcome.options[a].cost for a in actions) / outcome.full_cost
                rows.append(dict(budget=budget, name=name, cost=cost, seconds=seconds,
                                 divergence=float((images - reference).square().mean()), frechet=judged(images)))
                print({k: v if isinstance(v, str) else f'{v:.4g}' for k, v in rows[-1].items()}, flush=True)
    print(text_table(list(rows[0]), [[v if isinstance(v, str) else f'{v:.4g}' for v in r.values()] for r in rows], 2))
    if args.json:
        write_json(args.json, dict(command=shlex.join(['python', *sys.argv]), versions=versions(),
                                   machine=f'{cpu_name()}, {torch.get_num_threads()} threads', steps=args.steps,
                                   scheduler=args.scheduler, images=args.images, calibrations=rounded(found),
                                   rows=rounded(rows)))


if __name__ == '__main__':
    main()
