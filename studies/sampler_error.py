"""The error of samplers alone: power that is lost, by frequency, with the exact denoiser of Gaussian images.

    python studies/sampler_error.py configs/ldm/photo_patches.py
    python studies/sampler_error.py configs/ldm/ffhq.py

Each frequency of a Gaussian image is a Gaussian number, whose best denoiser is linear. A deterministic sampler maps
the noise of it to a multiple of the noise, so one call gives the power that it ends with. Variances of 1, 0.1 and 0.01
stand for low, middle and high frequencies of images in [-1, 1], or of latents. The table prints signed logarithms of
the power against the data's: -0.1 says that a tenth is missing. No network, no random numbers.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from slimdiff.configuration import load_config
from slimdiff.sampling import build_scheduler, denoise
from slimdiff.tables import markdown_table

SAMPLERS = {'DDIM': dict(type='DDIMScheduler', clip_sample=False),
            'DPM-Solver++ 2M': dict(type='DPMSolverMultistepScheduler'),
            'UniPC': dict(type='UniPCMultistepScheduler'), 'Heun': dict(type='HeunDiscreteScheduler')}
STEPS = (10, 15, 20, 25, 35, 50, 100, 200)
VARIANCES = (1.0, 0.1, 0.01)
#: evaluations of the network in a step
CALLS = {'Heun': 2}


def log_power(trained: Any, sampler: Mapping[str, Any], steps: int, variance: float) -> float:
    """Logarithm of the power that the exact denoiser of N(0, variance) samples, against ``variance``."""
    alphas = trained.alphas_cumprod.double().numpy()
    log_sigma = 0.5 * np.log((1 - alphas) / alphas)

    def predict(x: torch.Tensor, t: Any) -> torch.Tensor:
        a = 1 / (1 + math.exp(2 * np.interp(float(t), np.arange(len(alphas)), log_sigma)))
        return math.sqrt(1 - a) / (a * variance + 1 - a) * x

    found = denoise(predict, build_scheduler(sampler, base=trained), torch.ones(1, 1, 1, 1, dtype=torch.float64), steps)
    return math.log(found.item()**2 / variance)


def table(trained: Any, settings: Mapping[str, Any]) -> str:
    """Samplers at equal numbers of network evaluations; ``settings`` are the config's own of its sampler's class."""
    rows = []
    for calls in STEPS:
        row = [str(calls)]
        for name, sampler in SAMPLERS.items():
            sampler = settings if settings['type'] == sampler['type'] else sampler
            steps = calls // CALLS.get(name, 1)
            row.append(' / '.join(f'{log_power(trained, sampler, steps, variance):+.2f}' for variance in VARIANCES))
        rows.append(row)
    return markdown_table(['network evaluations', *SAMPLERS], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    model = load_config(parser.parse_args().config).model
    trained = build_scheduler({**model.noise_scheduler, 'clip_sample': False, 'prediction_type': 'epsilon'})
    # Gaussian numbers have no bounds, so nothing is clipped.
    print(table(trained, {**model.sampler, **({'clip_sample': False} if 'DDIM' in model.sampler.type else {})}))


if __name__ == '__main__':
    main()
