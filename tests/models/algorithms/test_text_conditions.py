"""Captions through the whole model: training, dropout, guidance, and a teacher with another text encoder."""

import sys
from pathlib import Path

import pytest
import torch

from slimdiff.models import DiffusionModel
from slimdiff.registry import MODELS

sys.path[:0] = [str(Path(__file__).parents[1] / 'conditioners'), str(Path(__file__).parents[1])]
import tiny_distiller as tiny  # noqa: E402
import tiny_text  # noqa: E402

NOISE = dict(type='DDPMScheduler', beta_schedule='linear')
CAPTIONS = ['a cat', 'two dogs', '']


def unet(width=16, channels=8):
    stages = [dict(channels=channels, blocks=1), dict(channels=2 * channels, blocks=1, downsample=False, heads=2,
                                                     cross_attention=True)]
    return dict(type='UNet', sample_size=8, stages=stages, norm_groups=4, context_channels=width)


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    return tiny_text.save_clip(tmp_path_factory.mktemp('clip'))


def make(clip, **settings):
    settings = {'unet': unet(), 'num_steps': 3, 'conditioner': dict(type='CLIPText', checkpoint=clip, channels=16),
                **settings}
    return tiny.shake(DiffusionModel(noise_scheduler=NOISE, **settings))


def test_captions_train_as_their_context_does(clip):
    model = make(clip, class_dropout=0.0)
    images, context = torch.rand(3, 3, 8, 8), model.conditioner(CAPTIONS)
    losses = []
    for condition in (dict(caption=CAPTIONS), dict(context=context), dict(caption=['other'] * 3)):
        model.seed_step(5)
        losses.append(model(images, **condition)['loss'].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and losses[2] != pytest.approx(losses[0], rel=1e-4)


def test_dropped_captions_are_empty_ones(clip):
    model = make(clip, class_dropout=0.5)
    model.seed_step(3)
    batch = model.noised_batch(torch.rand(64, 3, 8, 8), caption=['a cat'] * 64)
    dropped = [text == '' for text in batch.caption]
    assert 16 <= sum(dropped) <= 48
    empty, cat = model.conditioner(['', 'a cat'])
    for row, drop in zip(batch.context, dropped):
        torch.testing.assert_close(row, empty if drop else cat)


def test_guidance_by_hand(clip):
    """One DDIM step from the last timestep: both halves computed apart."""
    model = make(clip)
    found = model.sample([0, 1], caption=CAPTIONS[:2], num_steps=1, guidance_scale=3.0)
    sizes = []
    model.unet.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    again = model.sample([0, 1], caption=CAPTIONS[:2], num_steps=1, guidance_scale=3.0)
    assert sizes == [4] and torch.equal(found, again)  # one forward of both halves

    def predict(caption):
        seen = []
        hook = model.unet.register_forward_hook(lambda module, inputs, output: seen.append((*inputs, output.sample)))
        model.sample([0, 1], caption=caption, num_steps=1, guidance_scale=1.0)
        hook.remove()
        return seen[0]

    x, t, conditional = predict(CAPTIONS[:2])
    unconditional = predict(['', ''])[2]
    eps = unconditional + 3.0 * (conditional - unconditional)
    a = model.noise_process.alphas_cumprod[int(t if t.dim() == 0 else t[0])].float()
    x0 = ((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
    torch.testing.assert_close(found, x0, rtol=1e-4, atol=1e-4)


def test_default_captions_go_round(clip):
    model = make(clip, sample_captions=['a cat', 'two dogs'])
    torch.testing.assert_close(model.sample([0, 1, 2]), model.sample([0, 1, 2], caption=['a cat', 'two dogs', 'a cat']))


def test_the_text_encoder_is_in_no_checkpoint(clip):
    model = make(clip)
    model(torch.rand(1, 3, 8, 8), caption=['a'])
    assert all(name.startswith('unet.') for name in model.state_dict())


def test_a_teacher_reads_the_captions_with_its_own_encoder(clip, tmp_path):
    theirs = tiny_text.save_ldm_bert(tmp_path / 'bert', width=24)
    teacher = make(clip, unet=unet(24, 16), conditioner=dict(type='LDMBertText', checkpoint=theirs, channels=24))
    folder = tiny.save_pipeline(teacher, tmp_path / 'teacher')
    config = dict(type='Distiller', unet=unet(), noise_scheduler=NOISE, class_dropout=0.0,
                  conditioner=dict(type='CLIPText', checkpoint=clip, channels=16),
                  losses=[dict(type='SpatialLoss', tap='output')])
    with pytest.raises(ValueError, match='cross-attention to 24 channels, student cross-attention to 16.*its own cond'):
        MODELS.build({**config, 'teacher': dict(checkpoint=folder)})
    with pytest.raises(ValueError, match='conditioner of the teacher.*gives 16 channels, the UNet attends to 24'):
        MODELS.build({**config, 'teacher': dict(checkpoint=folder, conditioner=config['conditioner'])})
    model = tiny.shake(MODELS.build({**config, 'teacher': dict(
        checkpoint=folder, conditioner=dict(type='LDMBertText', checkpoint=theirs, channels=24))}))
    model.seed_step(1)
    batch = model.noised_batch(torch.rand(2, 3, 8, 8), caption=['a cat', 'a dog'])
    terms = model.loss_terms(batch)
    context = teacher.conditioner(['a cat', 'a dog'])
    expected = teacher.predict(batch.x_t, batch.t, context=context) - model.predict(batch.x_t, batch.t,
                                                                                     context=batch.context)
    assert terms['spatial_output'].item() == pytest.approx(0.1 * expected.square().mean().item(), rel=1e-4)
    with pytest.raises(ValueError, match="needs the batch's 'caption'"):
        model.loss_terms(model.noised_batch(torch.rand(2, 3, 8, 8), context=batch.context))


def test_bad_input(clip):
    model = make(clip)
    with pytest.raises(ValueError, match="the batch has no 'caption'"):
        model(torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match='gives 16 channels, the UNet attends to 8'):
        make(clip, unet=unet(8))
    with pytest.raises(ValueError, match='gives 16 channels, the UNet attends to nothing'):
        make(clip, unet=tiny.unet())
