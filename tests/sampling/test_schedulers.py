import diffusers
import pytest
import torch
from diffusers import DDIMScheduler

from slimdiff.configuration import ConfigError, check_config
from slimdiff.registry import SCHEDULERS, RegistryError
from slimdiff.sampling import build_scheduler, denoise
from slimdiff.sampling.denoise import eta_of, prepared


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


LDM = dict(type='DDPMScheduler', beta_schedule='scaled_linear', beta_start=0.0015, beta_end=0.0195, clip_sample=False)


def latent_sampler(**settings):
    """The sampler of configs/_base_/models/latents_vq_f4.py."""
    return build_scheduler(dict(type='DDIMScheduler', set_alpha_to_one=False, steps_offset=1, **settings),
                           base=build_scheduler(LDM))


@pytest.mark.parametrize('name', ['DDIMScheduler', 'DDPMScheduler', 'PNDMScheduler', 'TCDScheduler'])
def test_the_configs_own_sampler_settings_are_kept_where_the_class_has_them(name):
    own = latent_sampler(timestep_spacing='trailing')
    through = build_scheduler(dict(type='UniPCMultistepScheduler'), base=own)  # which has half of them
    for base in (own, through):
        config = build_scheduler(dict(type=name), base=base).config
        wanted = dict(set_alpha_to_one=False, steps_offset=1, timestep_spacing='trailing', clip_sample=False)
        assert {key: config[key] for key in wanted} == wanted
    assert build_scheduler(dict(type=name, steps_offset=0), base=own).config.steps_offset == 0


def test_only_the_same_class_keeps_what_is_its_own():
    own = build_scheduler(dict(type='DPMSolverMultistepScheduler', solver_order=3, use_karras_sigmas=True),
                          base=build_scheduler(LDM))
    same = build_scheduler(dict(type='DPMSolverMultistepScheduler', lower_order_final=False), base=own).config
    assert (same.solver_order, same.use_karras_sigmas, same.lower_order_final) == (3, True, False)
    other = build_scheduler(dict(type='UniPCMultistepScheduler'), base=own).config
    assert (other.solver_order, other.use_karras_sigmas) == (2, True)
    assert build_scheduler({}, base=own).config.solver_order == 3  # no type: that of the base


def test_a_sampler_from_a_folder_hands_on_what_the_one_that_was_saved_did(tmp_path):
    """The file has every default, too: DDIM's clipping and spacing are no wish of the config."""
    own = build_scheduler(dict(type='DDIMScheduler', steps_offset=1), base=build_scheduler(dict(type='DDPMScheduler')))
    own.save_pretrained(tmp_path)
    for base in (own, DDIMScheduler.from_pretrained(tmp_path)):
        config = build_scheduler(dict(type='HeunDiscreteScheduler'), base=base).config
        assert (config.clip_sample, config.timestep_spacing, config.steps_offset) == (False, 'linspace', 1)
        assert config.beta_end == 0.02


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(type='DDIMScheduler', beta_end=0.012), 'has beta_end=0.012, but the network is trained with 0.0195'),
    (dict(type='DDIMScheduler', prediction_type='v_prediction'), 'prediction_type=v_prediction.*trained with epsilon'),
    (dict(type='DDIMScheduler', rescale_betas_zero_snr=True), 'rescale_betas_zero_snr=True'),
    (dict(type='CogVideoXDDIMScheduler', snr_shift_scale=3.0), 'alphas_cumprod'),
    (dict(type='UniPCMultistepScheduler', use_flow_sigmas=True), 'use_flow_sigmas=True, the noise levels of flow'),
    (DDIMScheduler(), 'DDIMScheduler has another noise schedule .*build_scheduler'),
    (DDIMScheduler(prediction_type='sample', beta_schedule='scaled_linear', beta_start=0.0015, beta_end=0.0195),
     'prediction_type=sample, but the network is trained with epsilon'),
    (diffusers.FlowMatchEulerDiscreteScheduler(), 'FlowMatchEulerDiscreteScheduler cannot sample this network'),
])
def test_another_process_than_the_networks_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_scheduler(settings, base=latent_sampler())


@pytest.mark.parametrize(('settings', 'steps', 'message'), [
    (dict(type='DDIMScheduler'), 1000, r'DDIMScheduler: 1000 steps go from timestep 1000 .*0\.\.999.*steps_offset=0'),
    (dict(type='DDPMScheduler'), 1000, 'DDPMScheduler: 1000 steps go from timestep 1000'),
    (dict(type='TCDScheduler'), 60, 'TCDScheduler: 60 steps cannot be set'),
    (dict(type='PNDMScheduler'), 2, 'PNDMScheduler: 2 steps cannot be set'),
    (dict(type='DDIMScheduler', timestep_spacing='trialing'), 5, 'DDIMScheduler: 5 steps cannot be set: trialing'),
    (dict(type='UniPCMultistepScheduler'), 1000, 'UniPCMultistepScheduler: 1000 steps give NaN or infinity'),
])
def test_steps_that_cannot_be_taken_are_refused_before_the_network_runs(settings, steps, message):
    scheduler = build_scheduler(settings, base=latent_sampler())

    def network(x, t):
        raise AssertionError('called')

    with pytest.raises(ValueError, match=message):
        denoise(network, scheduler, torch.zeros(1, 1, 1, 1), steps)
    prepared(latent_sampler(), 999)


def test_timesteps_that_are_logarithms_are_no_timesteps_of_the_network():
    base = build_scheduler({**LDM, 'prediction_type': 'v_prediction'})
    scheduler = build_scheduler(dict(type='EulerDiscreteScheduler', timestep_type='continuous'), base=base)
    with pytest.raises(ValueError, match=r'go from timestep 1\.1.* to -0\.8.*trained on 0\.\.999'):
        prepared(scheduler, 5)


def test_eta_goes_where_it_means_something(tmp_path):
    own = latent_sampler(eta=0.5)
    assert eta_of(own) == 0.5 and eta_of(latent_sampler()) == 0
    own.save_pretrained(tmp_path)
    assert eta_of(DDIMScheduler.from_pretrained(tmp_path)) == 0.5
    assert eta_of(build_scheduler(dict(type='DDIMParallelScheduler'), base=own)) == 0.5
    assert eta_of(build_scheduler(dict(type='DDIMScheduler', eta=0), base=own)) == 0
    assert eta_of(build_scheduler(dict(eta=1), base=own)) == 1
    for name in ('UniPCMultistepScheduler', 'CogVideoXDDIMScheduler'):  # the latter has it in its signature alone
        assert eta_of(build_scheduler(dict(type=name), base=own)) == 0
        with pytest.raises(ValueError, match=f'{name} has no eta; DDIMScheduler has'):
            build_scheduler(dict(type=name, eta=1.0), base=own)
    for eta in (-0.1, 1.5, '1', True):
        with pytest.raises(ValueError, match=r'eta must lie in \[0, 1\]'):
            build_scheduler(dict(type='DDIMScheduler', eta=eta), base=own)
