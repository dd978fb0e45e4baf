import diffusers
import pytest
import torch

from slimdiff.configuration import ConfigError, check_config
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


@pytest.mark.parametrize(('name', 'others'), [
    ('DDIMSheduler', "Did you mean 'DDIMScheduler'? Also near: DDPMScheduler"),
    ('Nothing', 'Often used: DDPMScheduler, DDIMScheduler, DPMSolver')])
def test_the_message_is_short_and_says_where_all_are(name, others):
    messages = []
    for build in (build_scheduler, SCHEDULERS.build):
        with pytest.raises(RegistryError) as caught:
            build(dict(type=name))
        messages.append(str(caught.value))
    with pytest.raises(ConfigError) as caught:
        check_config(dict(model=dict(type='DiffusionModel', unet=dict(type='UNet'), noise_scheduler=dict(type=name))))
    for message in (*messages, str(caught.value)):
        assert others in message and len(message) < 400, message
        assert f'All {len(SCHEDULERS.module_dict)} are in diffusers.schedulers: https://' in message


def test_an_unknown_argument_names_the_nearest():
    with pytest.raises(RegistryError, match=r"no argument 'beta_shedule'.*'beta_schedule'"):
        build_scheduler(dict(type='DDPMScheduler', beta_shedule='linear'))
