import diffusers
import pytest
import torch

from slimdiff.registry import SCHEDULERS, RegistryError
from slimdiff.sampling import build_scheduler


def test_every_common_scheduler_is_registered():
    for name in ('DDPMScheduler', 'DDIMScheduler', 'DPMSolverMultistepScheduler', 'UniPCMultistepScheduler',
                 'EulerDiscreteScheduler', 'HeunDiscreteScheduler'):
        assert SCHEDULERS.get(name) is getattr(diffusers, name)


def test_settings_left_out_come_from_the_base():
    base = build_scheduler(dict(type='DDPMScheduler', beta_schedule='scaled_linear', beta_start=0.0015, beta_end=0.0195,
                                prediction_type='v_prediction'))
    sampler = build_scheduler(dict(type='DDIMScheduler', timestep_spacing='trailing'), base=base)
    assert sampler.config.prediction_type == 'v_prediction' and sampler.config.timestep_spacing == 'trailing'
    expected = torch.cumprod(1 - torch.linspace(0.0015**0.5, 0.0195**0.5, 1000)**2, 0)
    torch.testing.assert_close(sampler.alphas_cumprod, expected)


def test_a_scheduler_that_diffusers_lacks_names_the_nearest():
    with pytest.raises(RegistryError, match=r"no scheduler 'DDIMSheduler'.*Did you mean 'DDIMScheduler'"):
        build_scheduler(dict(type='DDIMSheduler'))


def test_an_unknown_argument_names_the_nearest():
    with pytest.raises(RegistryError, match=r"no argument 'beta_shedule'.*'beta_schedule'"):
        build_scheduler(dict(type='DDPMScheduler', beta_shedule='linear'))
