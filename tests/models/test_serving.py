import pytest
import tiny_distiller as tiny
import torch
from mmengine.config import ConfigDict

from slimdiff.checkpoint import CheckpointError, load_weights, save_checkpoint
from slimdiff.models import DiffusionModel
from slimdiff.models.serving import sampling_identity, serving_config
from slimdiff.registry import MODELS


def test_a_diffusion_model_is_served_as_it_is():
    config = dict(type='DiffusionModel', unet=tiny.unet(), num_steps=7)
    served = serving_config(ConfigDict(config))
    assert served == config and type(served['unet']) is dict


def test_a_distiller_is_served_without_its_teacher():
    config = tiny.distiller_config('no/such/teacher/anywhere')
    served = serving_config(config)
    assert served == {**{k: v for k, v in config.items() if k not in ('teacher', 'losses')}, 'type': 'DiffusionModel'}
    assert type(MODELS.build(served)) is DiffusionModel
    assert config['type'] == 'Distiller' and 'teacher' in config  # not changed in place


@pytest.mark.parametrize('weights', ['ema', 'online'])
def test_weights_of_a_distilled_checkpoint(tmp_path, weights):
    student = tiny.distiller(tiny.save_pipeline(tiny.teacher_model(), tmp_path / 'teacher'))
    state = student.state_dict()
    averages = {k: v + 1 for k, v in state.items()}
    assert any(k.startswith('projections.') for k in averages)
    meta = {'format': 'slimdiff-checkpoint', 'format_version': 2}
    path = tmp_path / 'iter_1.pth'
    save_checkpoint({'meta': meta, 'state_dict': state, 'ema': {'state_dict': averages}}, path)
    served = MODELS.build(serving_config(tiny.distiller_config('gone')))
    load_weights(served, path, weights)
    for name, value in served.state_dict().items():
        torch.testing.assert_close(value, (averages if weights == 'ema' else state)[name])
    # Only what training alone needs is passed over.
    save_checkpoint({'meta': meta, 'state_dict': {**state, 'other.weight': torch.zeros(1)}}, path)
    with pytest.raises(CheckpointError, match=r'unexpected: 1 \(other\.weight\)'):
        load_weights(served, path, 'online')
    # And the distiller itself wants its projections.
    save_checkpoint({'meta': meta, 'state_dict': served.state_dict()}, path)
    with pytest.raises(CheckpointError, match=r'missing: \d+ \(projections\.'):
        load_weights(student, path, 'online')


@pytest.mark.parametrize('noise_scheduler, argument', [
    (dict(type='DDPMScheduler'), dict(eta=0.5)),
    (dict(type='FlowMatchEulerDiscreteScheduler'), dict(sigmas=[1.0, 0.3]))])
def test_images_that_an_argument_of_the_sampler_changes_have_another_identity(noise_scheduler, argument):
    """Eta and sigmas are not in diffusers' config of a scheduler: a kept folder or quality would pass for the new."""
    model = MODELS.build(dict(
        type='DiffusionModel', unet=tiny.unet(), noise_scheduler=noise_scheduler,
        sampler=dict(type='DDIMScheduler') if 'eta' in argument else noise_scheduler)).eval()
    images = [model.sample([0], scheduler=scheduler, num_steps=2) for scheduler in ({}, argument)]
    assert not torch.equal(*images)
    plain, changed = (sampling_identity(model, scheduler, 2) for scheduler in ({}, argument))
    assert plain != changed and plain == sampling_identity(model, {}, 2)
