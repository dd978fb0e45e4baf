"""The exact denoiser of N(0.1, 0.5^2) data through every scheduler of diffusers: that distribution, or a refusal.

The posterior mean of Gaussian data is linear in x_t, so a deterministic sampler is an affine map of the noise: three
numbers give its mean and standard deviation without sampling error. First-order samplers contract by their own
discretisation error; it is computed here from their formula on the trained schedule, without diffusers.
"""

import inspect
import json
import math
from itertools import pairwise

import diffusers.schedulers
import numpy as np
import pytest
import torch
from diffusers import SchedulerMixin
from first_stages import TINY

from slimdiff.models.algorithms import DiffusionModel
from slimdiff.sampling import alphas_of, build_scheduler, denoise, process_of
from slimdiff.sampling.schedulers import sampler_names

MEAN, STD, T, STEPS = 0.1, 0.5, 1000, 50
ALPHAS = np.cumprod(1 - np.linspace(1e-4, 0.02, T))
KINDS = ('epsilon', 'sample', 'v_prediction')
EVERY = sorted(name for name, cls in inspect.getmembers(diffusers.schedulers, inspect.isclass)
               if name.endswith('Scheduler') and issubclass(cls, SchedulerMixin))
#: first-order samplers -> eta of the DDIM family (Song et al. 2021, Eq. 12) that they are: 1 is DDPM
FIRST = {'DDIMScheduler': 0, 'DDIMParallelScheduler': 0, 'CogVideoXDDIMScheduler': 0, 'TCDScheduler': 0,
         'EulerDiscreteScheduler': 0, 'DDPMScheduler': 1, 'DDPMParallelScheduler': 1,
         'EulerAncestralDiscreteScheduler': 1}
SECOND = ('DEISMultistepScheduler', 'DPMSolverMultistepScheduler', 'DPMSolverSinglestepScheduler',
          'HeunDiscreteScheduler', 'KDPM2DiscreteScheduler', 'LMSDiscreteScheduler', 'PNDMScheduler',
          'SASolverScheduler', 'UniPCMultistepScheduler')
#: neither, by their construction: they are right in the limit of many steps
OTHER = {('KDPM2AncestralDiscreteScheduler', 'epsilon'), ('KDPM2AncestralDiscreteScheduler', 'v_prediction'),
         ('PNDMScheduler', 'v_prediction')}
STOCHASTIC = ('DDPMScheduler', 'DDPMParallelScheduler', 'EulerAncestralDiscreteScheduler',
              'KDPM2AncestralDiscreteScheduler', 'SASolverScheduler')
#: those that diffusers wrote for eps and v alone
NO_SAMPLE = ('EulerAncestralDiscreteScheduler', 'KDPM2DiscreteScheduler', 'KDPM2AncestralDiscreteScheduler',
             'PNDMScheduler')


def alpha_at(t):
    """alphas_cumprod at a timestep; between two of them, log sigma is linear (as samplers of diffusers have it)."""
    log_sigma = np.interp(t, np.arange(T), 0.5 * np.log((1 - ALPHAS) / ALPHAS))
    return 1 / (1 + math.exp(2 * log_sigma))


def exact_denoiser(kind):
    """The best prediction of ``kind`` for N(MEAN, STD^2) data on the trained schedule."""

    def predict(x, t):
        a = alpha_at(float(t))
        x0 = MEAN + math.sqrt(a) * STD**2 / (a * STD**2 + 1 - a) * (x - math.sqrt(a) * MEAN)
        eps = (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
        return {'epsilon': eps, 'sample': x0, 'v_prediction': math.sqrt(a) * eps - math.sqrt(1 - a) * x0}[kind]

    return predict


def first_order(timesteps, eta, last=1.0):
    """Mean and standard deviation that N(0, 1) noise ends with by DDIM's formula; ``last`` is the alpha it stops at."""
    levels = [alpha_at(t) for t in timesteps] + [last]
    mean, variance = 0.0, 1.0
    for a, b in pairwise(levels):
        noise = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
        slope = math.sqrt(a) * STD**2 / (a * STD**2 + 1 - a)  # of x0 in x_t
        toward = math.sqrt(1 - b - noise)
        x0 = MEAN + slope * (mean - math.sqrt(a) * MEAN)
        mean = math.sqrt(b) * x0 + toward * (mean - math.sqrt(a) * x0) / math.sqrt(1 - a)
        variance = (math.sqrt(b) * slope + toward * (1 - math.sqrt(a) * slope) / math.sqrt(1 - a))**2 * variance + noise
    return mean, math.sqrt(variance)


def trained(kind='epsilon', **settings):
    """What a config of pixels says: the schedule by its name alone, so that from_config would drop the betas."""
    return build_scheduler(dict(type='DDPMScheduler', beta_schedule='linear', clip_sample=False, prediction_type=kind,
                                **settings))


def sampled(scheduler, kind='epsilon', steps=STEPS, stochastic=False):
    """Mean and standard deviation of what the exact denoiser samples."""
    if not stochastic:
        noise = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64).view(3, 1, 1, 1)
        low, middle, high = denoise(exact_denoiser(kind), scheduler, noise, steps).flatten().tolist()
        assert middle == pytest.approx((low + high) / 2, abs=1e-4)  # affine
        return middle, (high - low) / 2
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(40_000, 1, 1, 1, generator=generator, dtype=torch.float64)
    x = denoise(exact_denoiser(kind), scheduler, noise, steps, [generator])
    return x.mean().item(), x.std().item()


def test_the_formula_gives_the_published_errors_of_first_order_samplers():
    leading = range(980, -1, -20)
    assert first_order(leading, 0)[1] == pytest.approx(0.475, abs=0.004)
    assert first_order(leading, 1)[1] == pytest.approx(0.448, abs=0.004)
    assert first_order(range(T - 1, -1, -1), 0) == pytest.approx((MEAN, STD), abs=0.003)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', EVERY)
def test_the_distribution_or_a_refusal(name, kind):
    if (name not in (*FIRST, *SECOND) and (name, kind) not in OTHER) or (kind == 'sample' and name in NO_SAMPLE):
        with pytest.raises(ValueError, match=rf'^{name} cannot sample this network .*Schedulers that can: .*DDIMSch'):
            build_scheduler(dict(type=name), base=trained(kind))
        assert name not in sampler_names(kind)
        return
    scheduler = build_scheduler(dict(type=name), base=trained(kind))
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), ALPHAS, rtol=2e-5)
    stochastic = name in STOCHASTIC
    mean, std = sampled(scheduler, kind, stochastic=stochastic)
    tolerance = 0.008 if stochastic else 0.001  # three standard errors of 40,000 samples
    if (name, kind) in OTHER:
        assert (mean, std) == pytest.approx((MEAN, STD), abs=0.02)
        assert sampled(scheduler, kind, 200, stochastic) == pytest.approx((MEAN, STD), abs=0.006)
    elif name in FIRST:
        scheduler.set_timesteps(STEPS)
        last = ALPHAS[0] if name == 'TCDScheduler' else 1.0  # diffusers' TCD stops at timestep 0
        expected = first_order(scheduler.timesteps.tolist(), FIRST[name], last)
        assert (mean, std) == pytest.approx(expected, abs=tolerance)
    else:
        assert mean == pytest.approx(MEAN, abs=tolerance)
        assert 0.485 < std < 0.515


#: that take the timesteps of their steps
TAKE = ('DDPMParallelScheduler', 'DDPMScheduler', 'DPMSolverMultistepScheduler', 'DPMSolverSinglestepScheduler',
        'EulerDiscreteScheduler', 'TCDScheduler')


@pytest.mark.parametrize('name', [name for name in EVERY if name in (*FIRST, *SECOND)])
def test_timesteps_that_are_given_are_those_that_are_sampled(name):
    """Unevenly, half of them in the last fifth."""
    times = [*range(990, 200, -40), *range(190, 0, -9)]
    if name not in TAKE:
        with pytest.raises(ValueError, match=f'^{name} cannot take given timesteps'):
            build_scheduler(dict(type=name, timesteps=times), base=trained())
        return
    scheduler = build_scheduler(dict(type=name, timesteps=times), base=trained())
    again = type(scheduler).from_config(json.loads(json.dumps(dict(scheduler.config))))
    mean, std = sampled(again, steps=len(times), stochastic=name in STOCHASTIC)
    if name in FIRST:
        last = ALPHAS[0] if name == 'TCDScheduler' else 1.0
        assert (mean, std) == pytest.approx(first_order(times, FIRST[name], last), abs=0.008 if FIRST[name] else 0.001)
    else:
        assert (mean, std) == pytest.approx((MEAN, STD), abs=0.01)


def test_timesteps_that_are_refused():
    for times, message in (([10, 500], 'must be whole and fall'), ([999.5, 3], 'must be whole and fall'),
                           ([1000, 3], 'must be whole and fall'), ([], 'must be whole and fall')):
        with pytest.raises(ValueError, match=message):
            build_scheduler(dict(type='EulerDiscreteScheduler', timesteps=times), base=trained())
    with pytest.raises(ValueError, match='give one of them'):
        build_scheduler(dict(type='EulerDiscreteScheduler', timesteps=[3], sigmas=[0.5]), base=trained())


def test_eta_is_the_noise_of_ddim():
    for eta in (0.0, 0.5, 1.0):
        scheduler = build_scheduler(dict(type='DDIMScheduler', eta=eta), base=trained())
        found = sampled(scheduler, stochastic=True)
        assert found == pytest.approx(first_order(range(980, -1, -20), eta), abs=0.008)


SCHEDULES = [
    dict(type='DDPMScheduler', beta_schedule='scaled_linear', beta_start=0.0015, beta_end=0.0195),
    dict(type='DDPMScheduler', beta_schedule='squaredcos_cap_v2'),
    dict(type='DDPMScheduler', beta_schedule='sigmoid'),  # DDIM and most others lack it
    dict(type='DDPMScheduler', trained_betas=np.linspace(0.02, 1e-4, 100).tolist(), num_train_timesteps=100),
    dict(type='HeunDiscreteScheduler', beta_schedule='exp'),  # DDPM lacks it
    dict(type='CogVideoXDDIMScheduler', prediction_type='v_prediction'),  # bends its betas
    dict(type='DDPMScheduler', rescale_betas_zero_snr=True, prediction_type='v_prediction'),
    dict(type='UnCLIPScheduler'), dict(type='LCMScheduler'),
]


@pytest.mark.parametrize('noise', SCHEDULES, ids=lambda noise: '-'.join(map(str, list(noise.values())[:2]))[:50])
def test_every_sampler_has_the_trained_schedule(noise):
    base = build_scheduler(noise)
    alphas, kind = base.alphas_cumprod.double(), base.config.prediction_type
    torch.testing.assert_close(alphas_of(process_of(base)['schedule']), alphas, rtol=1e-4, atol=1e-6)
    for name in sampler_names(kind):
        if name.startswith('KDPM2') and len(alphas) == 1000:  # half a second each
            continue
        scheduler = build_scheduler(dict(type=name), base=base)
        torch.testing.assert_close(scheduler.alphas_cumprod.double(), alphas, rtol=1e-4, atol=1e-6)
        assert scheduler.config.prediction_type == kind
        again = type(scheduler).from_config(json.loads(scheduler.to_json_string()))  # as an exported folder has it
        torch.testing.assert_close(again.alphas_cumprod, scheduler.alphas_cumprod)


def test_zero_terminal_snr_is_sampled_or_refused():
    """Some samplers divide by the signal of the last timestep, which is 0."""
    base = trained('v_prediction', rescale_betas_zero_snr=True)
    alphas, refused = base.alphas_cumprod.double(), []

    def predict(x, t):
        a = alphas[round(float(t))]
        x0 = MEAN + a.sqrt() * STD**2 / (a * STD**2 + 1 - a) * (x - a.sqrt() * MEAN)
        return (a.sqrt() * x - x0) / (1 - a).sqrt() if a < 1 else 0 * x

    for name in sampler_names('v_prediction'):
        if name.startswith(('KDPM2', 'LMS')):  # slow
            continue
        scheduler = build_scheduler(dict(type=name), base=base)
        try:
            low, middle, high = denoise(predict, scheduler, torch.tensor([-1.0, 0, 1]).view(3, 1, 1, 1).double(), STEPS,
                                        [torch.Generator().manual_seed(0)])
        except ValueError as error:
            assert str(error).startswith(name) and 'Ask for another number, or another scheduler' in str(error)
            refused.append(name)
            continue
        if name not in STOCHASTIC:
            assert middle.item() == pytest.approx(MEAN, abs=0.01), name
            assert (high - low).item() / 2 == pytest.approx(STD, abs=0.04), name
    assert refused == ['DEISMultistepScheduler', 'DPMSolverSinglestepScheduler', 'HeunDiscreteScheduler',
                       'SASolverScheduler']


UNET = dict(type='UNet', sample_size=8, norm_groups=4, stages=[dict(channels=8, blocks=1, downsample=False)])


@pytest.mark.parametrize('name', ['DDPMScheduler', 'EulerDiscreteScheduler', 'HeunDiscreteScheduler',
                                  'LMSDiscreteScheduler', 'DPMSolverMultistepScheduler', 'UniPCMultistepScheduler',
                                  'DEISMultistepScheduler', 'DDIMInverseScheduler', 'EulerAncestralDiscreteScheduler'])
def test_training_sees_x_t_of_the_schedule_under_any_noise_scheduler(name):
    model = DiffusionModel(unet=UNET, noise_scheduler=dict(type=name, beta_schedule='linear', beta_start=1e-4,
                                                           beta_end=0.02))
    x0, noise = torch.full((3, 3, 8, 8), 0.5), torch.full((3, 3, 8, 8), -2.0)
    a = torch.tensor(ALPHAS[[300, 700, 999]]).view(3, 1, 1, 1)
    expected = (a.sqrt() * 0.5 - (1 - a).sqrt() * 2).float().expand_as(x0)
    torch.testing.assert_close(model.add_noise(x0, noise, torch.tensor([300, 700, 999])), expected)
    batch = model.noised_batch(x0)
    a = torch.tensor(ALPHAS)[batch.t].view(3, 1, 1, 1)
    torch.testing.assert_close(batch.x_t, (a.sqrt() * batch.x0 + (1 - a).sqrt() * batch.noise).float())


@pytest.mark.parametrize(('asked', 'std'), [({}, 0.964), (dict(clip_sample=True), 0.711)])
def test_latents_are_not_clipped_unless_the_config_says_so(asked, std):
    """N(0, 1) latents: the exact eps is sqrt(1-a) x, and 50 steps of DDIM keep .964 of x."""
    model = DiffusionModel(unet={**UNET, 'in_channels': 4, 'out_channels': 4}, noise_scheduler=dict(
        type='DDPMScheduler', **asked), autoencoder=dict(type='KLAutoencoder', checkpoint=None, architecture=TINY))
    ddpm, lms = (model.sampler_of(dict(type=f'{name}Scheduler')) for name in ('DDPM', 'LMSDiscrete'))
    back = build_scheduler(dict(type='DDIMScheduler'), base=lms)  # lms itself has no such setting
    assert ddpm.config.clip_sample is back.config.clip_sample is bool(asked)
    noise = torch.randn(4000, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for scheduler in (model.sampler, back):
        x = denoise(lambda x, t: math.sqrt(1 - alpha_at(float(t))) * x, scheduler, noise, STEPS)
        assert x.std().item() == pytest.approx(std, abs=0.02)
