"""The error of a sampler on Gaussian numbers: DDIM's by its formula."""

import math
from itertools import pairwise

import numpy as np
import pytest

from slimdiff.sampling import build_scheduler
from studies.sampler_error import log_power


@pytest.mark.parametrize('variance', [1.0, 0.04])
def test_ddim_loses_what_its_formula_says(variance):
    alphas = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    levels, x = [*alphas[[750, 500, 250, 0]], 1.0], 1.0
    for a, b in pairwise(levels):  # Song et al. 2021, Eq. 12 without noise
        x0 = math.sqrt(a) * variance / (a * variance + 1 - a) * x
        x = math.sqrt(b) * x0 + math.sqrt(1 - b) * (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
    trained = build_scheduler(dict(type='DDPMScheduler', beta_schedule='linear', clip_sample=False))
    found = log_power(trained, dict(type='DDIMScheduler', clip_sample=False), 4, variance)
    assert found == pytest.approx(math.log(x**2 / variance), abs=1e-4)
    assert abs(log_power(trained, dict(type='DDIMScheduler', clip_sample=False), 500, variance)) < 0.03
