"""Weights under a config that computes otherwise are refused, by every command, unless that is wanted."""

import copy
import inspect

import pytest
import tiny_distiller as tiny
import torch
from diffusers import DDPMScheduler

from slimdiff.checkpoint import load_checkpoint, save_checkpoint
from slimdiff.export.folder import export_pipeline
from slimdiff.export.load import load_trained
from slimdiff.models import computation
from slimdiff.models.computation import ComputationError, differences, of_folder, of_model
from slimdiff.registry import MODELS, SCHEDULERS, trust_types
from slimdiff.sampling import alphas_of, process_of

# At ends that are not diffusers' defaults; a resampler with an argument; attention, whose heads shapes do not show.
CONFIG = dict(
    type='DiffusionModel', sigma_data=0.5, num_steps=2,
    noise_scheduler=dict(type='DDPMScheduler', beta_start=0.0002, beta_end=0.015),
    unet=dict(type='UNet', sample_size=8, norm_groups=4, downsampler=dict(type='WaveletDown', wavelet='haar'),
              stages=[dict(channels=8, blocks=1), dict(channels=16, blocks=1, heads=2, downsample=False)]))
#: key in the config -> another value, and what the error says
CHANGES = {
    'noise_scheduler.prediction_type': ('v_prediction', 'prediction_type: epsilon (checkpoint), v_prediction (config)'),
    'sigma_data': (1.0, 'sigma_data: 0.5 (checkpoint), 1.0 (config)'),
    'noise_scheduler.beta_end': (0.02, 'beta_end: 0.015 (checkpoint), 0.02 (config)'),
    'noise_scheduler.beta_schedule': ('scaled_linear', 'beta_schedule: linear (checkpoint), scaled_linear (config)'),
    'noise_scheduler.num_train_timesteps': (500, 'num_train_timesteps: 1000 (checkpoint), 500 (config)'),
    'unet.flip_sin_to_cos': (False, 'flip_sin_to_cos: True (checkpoint), False (config)'),
    'unet.freq_shift': (1.0, 'freq_shift: 0.0 (checkpoint), 1.0 (config)'),
    'unet.norm_groups': (8, 'norm_groups: 4 (checkpoint), 8 (config)'),
    'unet.stages.1.heads': (4, 'stages.1.heads: 2 (checkpoint), 4 (config)'),
}


def changed(key, value):
    config = copy.deepcopy(CONFIG)
    place = config
    *path, last = key.split('.')
    for part in path:
        place = place[int(part) if part.isdigit() else part]
    place[last] = value
    return config


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The same weights as a .pth with its record, as one of an older slimdiff, and as folders."""
    folder = tmp_path_factory.mktemp('trained')
    model = tiny.shake(MODELS.build(copy.deepcopy(CONFIG)), std=0.5)
    meta = {'format': 'slimdiff-checkpoint', 'format_version': 2}
    state = model.state_dict()
    save_checkpoint({'meta': {**meta, 'computes': of_model(model)}, 'state_dict': state}, folder / 'recorded.pth')
    save_checkpoint({'meta': {**meta, 'config': {'model': CONFIG}}, 'state_dict': state}, folder / 'older.pth')
    model.unet.save_pretrained(folder / 'older/unet')
    model.sampler.save_pretrained(folder / 'older/scheduler')
    export_pipeline(model, folder / 'recorded')
    export_pipeline(model, folder / 'bare', unet_only=True)
    return folder


NAMES = ['recorded.pth', 'older.pth', 'recorded', 'older', 'bare/unet']


@pytest.mark.parametrize('name', NAMES)
def test_another_computation_is_refused_and_the_config_may_be_trusted(trained, name):
    same = load_trained(MODELS.build(copy.deepcopy(CONFIG)), trained / name, 'online')
    assert same or name == 'recorded.pth'
    for key, (value, message) in CHANGES.items():
        model = MODELS.build(changed(key, value))
        with pytest.raises(ComputationError) as caught:
            load_trained(model, trained / name, 'online')
        assert message in str(caught.value) and '--trust-config' in str(caught.value), key
        load_trained(model, trained / name, 'online', trust_config=True)


@torch.no_grad()
def test_what_is_compared_matters(trained):
    """The oracle: with the same weights each of these values gives another output."""
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([100, 400])
    outputs = {}
    for key, value in {'': None, **{key: value for key, (value, _) in CHANGES.items()}}.items():
        model = MODELS.build(changed(key, value) if key else copy.deepcopy(CONFIG))
        load_trained(model, trained / 'recorded.pth', 'online', trust_config=True)
        outputs[key] = model.eval().predict(x, t)
    for key, output in outputs.items():
        assert not key or (output - outputs['']).abs().max() > 1e-4, key


def test_the_record_survives_diffusers(trained, tmp_path):
    """An exported network that was loaded and saved again by itself still says how it was trained."""
    from slimdiff import PreconditionedBackbone
    PreconditionedBackbone.from_pretrained(trained / 'recorded/unet').save_pretrained(tmp_path)
    record = of_model(MODELS.build(copy.deepcopy(CONFIG)))
    assert of_folder(tmp_path, tmp_path) == record == load_checkpoint(trained / 'recorded.pth')['meta']['computes']
    assert record['schedule']['beta_end'] == 0.015 and record['first_stage'] is None


@pytest.mark.parametrize('record', [7, {'schedule': 1}, {'schedule': {'beta_schedule': 'none'}},
                                    {'schedule': {'beta_start': 'x'}}, {'first_stage': [1]}, {'prediction_type': {}}])
def test_a_damaged_record(record, tmp_path):
    model = MODELS.build(copy.deepcopy(CONFIG))
    save_checkpoint({'meta': {'format': 'slimdiff-checkpoint', 'format_version': 2, 'computes': record},
                     'state_dict': model.state_dict()}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='is damaged|is not a noise schedule'):
        load_trained(model, tmp_path / 'x.pth', 'online')


def test_other_words_for_the_same():
    model = MODELS.build(copy.deepcopy(CONFIG))
    record = of_model(model)
    spelt = changed('unet.stages', [dict(channels=8, blocks=1, up_blocks=1, heads=None),
                                    dict(channels=16, blocks=1, heads=2, downsample=False, skips=1)])
    spelt['unet']['downsampler'].pop('wavelet')
    spelt['unet'] |= dict(mid_channels=16, time_channels=8, dropout=0.1)
    spelt['noise_scheduler'] |= dict(trained_betas=model.noise_scheduler.betas.tolist())
    assert differences(record, of_model(MODELS.build(spelt))) == []
    # What a record does not say is not compared.
    assert differences({'prediction_type': 'epsilon'}, record) == [] == differences({}, record)


# ---- the noise process of a folder, by its scheduler's class --------------------------------------------------------


def usable(kind):
    try:
        return hasattr(kind(), 'alphas_cumprod') or kind.__name__.startswith('FlowMatch')
    except TypeError:
        return False


@pytest.mark.parametrize('name', sorted(SCHEDULERS.module_dict))
def test_every_scheduler_of_diffusers_is_read_by_its_own_defaults_or_refused(name, tmp_path):
    kind = SCHEDULERS.module_dict[name]
    network = MODELS.build({**CONFIG['unet']})
    network.save_pretrained(tmp_path / 'unet')
    (tmp_path / 'scheduler').mkdir()
    (tmp_path / 'scheduler/scheduler_config.json').write_text(f'{{"_class_name": "{name}"}}')
    if not usable(kind):
        with pytest.raises(ValueError, match=f"trained for another process.*scheduler is a '{name}'"):
            of_folder(tmp_path, tmp_path / 'unet')
        return
    found = of_folder(tmp_path, tmp_path / 'unet')
    if name.startswith('FlowMatch'):
        assert found['prediction_type'] == 'flow_prediction' and found['schedule']['process'] == 'rectified_flow'
        return
    torch.testing.assert_close(alphas_of(found['schedule']).float(), kind().alphas_cumprod.float(),
                               rtol=0, atol=1e-5)
    assert found['prediction_type'] == 'epsilon'


def test_ends_of_the_schedules_that_differ_from_ddpm():
    """By hand: the defaults of these classes are Stable Diffusion's ends, and not 0.0001 and 0.02."""
    for name, schedule in (('HeunDiscreteScheduler', 'linear'), ('LCMScheduler', 'scaled_linear')):
        found = process_of(SCHEDULERS.module_dict[name]())['schedule']
        assert (found['beta_schedule'], found['beta_start'], found['beta_end']) == (schedule, 0.00085, 0.012)


@pytest.mark.parametrize('config, message', [
    (dict(_class_name='EulerDiscreteScheduler', timestep_type='continuous'), 'logarithms of noise levels'),
    (dict(_class_name='DPMSolverMultistepScheduler', prediction_type='flow_prediction'),
     "prediction_type 'flow_prediction' is for rectified flow"),
    (dict(_class_name='torch.nn.Identity'), "scheduler is a 'torch.nn.Identity'"),
    (dict(_class_name=['a']), 'trained for another process')])
def test_other_processes_under_known_names(config, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        computation._of_scheduler(config, tmp_path)


def test_a_class_that_the_users_config_names_is_no_scheduler_for_it(tmp_path):
    trust_types(dict(head=dict(type='torch.nn.Identity')))
    with pytest.raises(ValueError, match="scheduler is a 'torch.nn.Identity'"):
        computation._of_scheduler(dict(_class_name='torch.nn.Identity'), tmp_path)


def test_a_schedule_that_has_no_words_is_kept_by_its_betas():
    scheduler = SCHEDULERS.module_dict['CogVideoXDDIMScheduler']()  # shifts the signal-to-noise ratio
    words = DDPMScheduler(beta_schedule='scaled_linear', beta_start=0.00085, beta_end=0.012)
    assert (words.alphas_cumprod - scheduler.alphas_cumprod).abs().max() > 0.01
    found = process_of(scheduler)['schedule']
    assert 'trained_betas' in found
    torch.testing.assert_close(alphas_of(found).float(), scheduler.alphas_cumprod.float(), rtol=0,
                               atol=1e-5)


# ---- the commands ---------------------------------------------------------------------------------------------------


def test_every_command_that_takes_weights_has_the_option():
    from slimdiff.cli import benchmark, compare_allocations, export, publish, sample, search, test, train
    for module in (benchmark, compare_allocations, export, publish, sample, search, test, train):
        assert 'add_trust_argument(parser)' in inspect.getsource(module.parse), module.__name__


@pytest.mark.parametrize('command', ['sample', 'export', 'publish', 'search'])
def test_commands_refuse(command, trained, tmp_path, capsys):
    import importlib
    main = importlib.import_module(f'slimdiff.cli.{command}').main
    config = tmp_path / 'config.py'
    config.write_text(f"model = {changed('noise_scheduler.prediction_type', 'v_prediction')!r}\n")
    out = tmp_path / 'out'
    words = {'sample': ['-n', '1', '--out', str(out)], 'search': ['--work-dir', str(out)]}.get(command, [str(out)])
    argv = [str(config), str(trained / 'recorded.pth'), *words, '--weights', 'online']
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert 'prediction_type: epsilon (checkpoint), v_prediction (config)' in said and 'Traceback' not in said
    assert not out.exists() or not any(out.iterdir())
    if command != 'search':
        assert main([*argv, '--trust-config']) == 0


@pytest.mark.parametrize('name', ['photo_patches', 'photo_patches_16px'])
def test_shipped_teachers_fit_their_configs(name):
    """Their folders are older than the record: it is read from what is in them."""
    from slimdiff.checkpoint import find_path
    from slimdiff.configuration import load_config
    config = load_config(f'configs/ldm/{name}.py').model
    folder = find_path(f'configs/ldm/{name}_weights')
    load_trained(MODELS.build(config), folder)
    known = of_folder(folder, folder / 'unet')
    assert {'schedule', 'prediction_type', 'sigma_data', 'num_classes', 'network'} <= known.keys()
    config.noise_scheduler.beta_end = 0.012
    with pytest.raises(ComputationError, match=r'beta_end: 0\.02 \(checkpoint\), 0\.012 \(config\)'):
        load_trained(MODELS.build(config), folder)
