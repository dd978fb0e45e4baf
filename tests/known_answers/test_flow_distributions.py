"""The exact velocity of N(0.1, 0.5^2) data through every sampler of rectified flow: that distribution, or a refusal.

The velocity is linear in x_t, so a deterministic sampler is an affine map of the noise. Euler's contraction is computed
here from its formula.
"""

import inspect
from itertools import pairwise

import diffusers.schedulers
import pytest
import torch
from diffusers import SchedulerMixin

from slimdiff.sampling import build_scheduler, denoise
from slimdiff.sampling.denoise import prepared, timesteps_of
from slimdiff.sampling.schedulers import sampler_names

MEAN, STD, T, STEPS = 0.1, 0.5, 1000, 50
EVERY = sorted(name for name, cls in inspect.getmembers(diffusers.schedulers, inspect.isclass)
               if name.endswith('Scheduler') and issubclass(cls, SchedulerMixin))
FIRST = ('FlowMatchEulerDiscreteScheduler', )
SECOND = ('DEISMultistepScheduler', 'DPMSolverMultistepScheduler', 'DPMSolverSinglestepScheduler',
          'FlowMatchHeunDiscreteScheduler', 'UniPCMultistepScheduler')
STOCHASTIC = ('SASolverScheduler', )
TRAINED = build_scheduler(dict(type='FlowMatchEulerDiscreteScheduler'))


def velocity(x, t):
    """E[eps - x0 | x_t] of N(MEAN, STD^2) data at x_t = (1 - s) x0 + s eps."""
    assert t.is_floating_point(), 'a flow is told real timesteps'
    s = t.double() / T
    variance = (1 - s)**2 * STD**2 + s**2
    centred = x - (1 - s) * MEAN
    return s / variance * centred - (MEAN + (1 - s) * STD**2 / variance * centred)


def sampled(scheduler, stochastic=False):
    if stochastic:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(40_000, 1, 1, 1, generator=generator, dtype=torch.float64)
        x = denoise(velocity, scheduler, noise, STEPS, [generator])
        return x.mean().item(), x.std().item()
    noise = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64).view(3, 1, 1, 1)
    low, middle, high = denoise(velocity, scheduler, noise, STEPS).flatten().tolist()
    assert middle == pytest.approx((low + high) / 2, abs=1e-4)
    return middle, (high - low) / 2


def euler(levels):
    """Mean and standard deviation after Euler's steps between these levels."""
    low, high = -1.0, 1.0
    for one, two in pairwise([*levels, 0.0]):
        ends = torch.tensor([low, high], dtype=torch.float64)
        low, high = (ends + (two - one) * velocity(ends, torch.tensor(T * one, dtype=torch.float64))).tolist()
    return (low + high) / 2, (high - low) / 2


@pytest.mark.parametrize('shift', [1.0, 3.0])
@pytest.mark.parametrize('name', EVERY)
def test_the_distribution_or_a_refusal(name, shift):
    if name not in (*FIRST, *SECOND, *STOCHASTIC):
        with pytest.raises(ValueError, match=rf'^{name} cannot sample this network \(rectified flow'):
            build_scheduler(dict(type=name), base=TRAINED)
        assert name not in sampler_names('flow_prediction')
        return
    key = 'shift' if name.startswith('FlowMatch') else 'flow_shift'
    scheduler = build_scheduler({'type': name, key: shift}, base=TRAINED)
    mean, std = sampled(scheduler, name in STOCHASTIC)
    if name in FIRST:
        # diffusers shifts the end of the range, and then all levels.
        levels = torch.linspace(1, shift / T / (1 + (shift - 1) / T), STEPS, dtype=torch.float64)
        expected = euler((shift * levels / (1 + (shift - 1) * levels)).tolist())
        assert (mean, std) == pytest.approx(expected, abs=1e-4)
    else:
        assert mean == pytest.approx(MEAN, abs=0.012)
        assert 0.475 < std < 0.512


def test_a_sampler_of_another_class_keeps_the_shift():
    own = build_scheduler(dict(type='FlowMatchEulerDiscreteScheduler', shift=3.0), base=TRAINED)
    assert build_scheduler(dict(type='UniPCMultistepScheduler'), base=own).config.flow_shift == 3.0
    solver = build_scheduler(dict(type='DPMSolverMultistepScheduler', flow_shift=2.0), base=TRAINED)
    assert build_scheduler(dict(type='FlowMatchHeunDiscreteScheduler'), base=solver).config.shift == 2.0
    assert build_scheduler(dict(type='FlowMatchEulerDiscreteScheduler', shift=1.5), base=own).config.shift == 1.5


def test_what_does_not_fit_a_flow():
    with pytest.raises(ValueError, match='use_dynamic_shifting needs a mu.*to exp'):
        build_scheduler(dict(type='FlowMatchEulerDiscreteScheduler', use_dynamic_shifting=True), base=TRAINED)
    with pytest.raises(ValueError, match='stochastic_sampling=True cannot sample this network.*narrows'):
        build_scheduler(dict(type='FlowMatchEulerDiscreteScheduler', stochastic_sampling=True), base=TRAINED)
    diffusion = build_scheduler(dict(type='DDPMScheduler'))
    with pytest.raises(ValueError, match='FlowMatchEulerDiscreteScheduler cannot sample this network'):
        build_scheduler(dict(type='FlowMatchEulerDiscreteScheduler'), base=diffusion)
    with pytest.raises(ValueError, match="prediction_type 'flow_prediction' is for rectified flow"):
        build_scheduler(dict(type='DDIMScheduler'), base=build_scheduler(
            dict(type='DPMSolverMultistepScheduler', prediction_type='flow_prediction')))


@pytest.mark.parametrize('name', ['FlowMatchEulerDiscreteScheduler', 'UniPCMultistepScheduler'])
def test_the_levels_of_the_steps_can_be_given(name, tmp_path):
    """By hand, for Euler; no shift of the config changes them."""
    levels = [1.0, 0.7, 0.45, 0.2, 0.05]
    own = build_scheduler(dict(type='FlowMatchEulerDiscreteScheduler', shift=3.0), base=TRAINED)
    scheduler = build_scheduler(dict(type=name, sigmas=levels), base=own)
    assert timesteps_of(scheduler, 5) == pytest.approx([1000 * level for level in levels], abs=2e-3)
    scheduler.save_pretrained(tmp_path)
    again = type(scheduler).from_pretrained(tmp_path)
    noise = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64).view(3, 1, 1, 1)
    low, middle, high = denoise(velocity, again, noise, 5).flatten().tolist()
    if name in FIRST:
        assert (middle, (high - low) / 2) == pytest.approx(euler(levels), abs=1e-5)
    else:
        assert (middle, (high - low) / 2) == pytest.approx((MEAN, STD), abs=0.03)
    with pytest.raises(ValueError, match='it has 5 sigmas: set num_steps=5'):
        denoise(velocity, again, noise, 4)


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(type='FlowMatchEulerDiscreteScheduler', sigmas=[0.2, 0.6, 1.0]), 'must fall, from at most 1'),
    (dict(type='FlowMatchEulerDiscreteScheduler', sigmas=[1.0, 0.5, 0.0]), 'must fall, from at most 1'),
    (dict(type='UniPCMultistepScheduler', sigmas=[1.2, 0.5]), 'must fall, from at most 1'),
    (dict(type='FlowMatchHeunDiscreteScheduler', sigmas=[1.0, 0.5]), 'FlowMatchHeunDiscreteScheduler takes no sigmas')])
def test_levels_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_scheduler(settings, base=TRAINED)
    if settings['type'].startswith('Uni'):
        with pytest.raises(ValueError, match='noise levels of flow matching, but the network is trained on a variance'):
            build_scheduler(settings, base=build_scheduler(dict(type='DDPMScheduler')))


def test_first_timesteps_that_round_to_one_are_two_steps():
    """A large shift puts the first levels so close that DPM-Solver's whole timesteps are equal."""
    scheduler = prepared(build_scheduler(dict(type='DPMSolverMultistepScheduler', flow_shift=40.0), base=TRAINED), 50)
    first, second, *_ = scheduler.timesteps.tolist()
    assert first == second
    x = torch.zeros(1, 1, 1, 1)
    scheduler.step(x, scheduler.timesteps[0], x)
    assert scheduler.step_index == 1
