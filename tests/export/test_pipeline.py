"""Our pipeline of diffusers against our sampler, after a round through a folder."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, HeunDiscreteScheduler
from first_stages import tiny_kl
from tiny_text import save_clip, save_ldm_bert

from slimdiff import SlimDiffusionPipeline
from slimdiff.export.folder import export_pipeline, model_of, stock_pipeline
from slimdiff.export.load import load_pipeline
from slimdiff.registry import MODELS
from slimdiff.sampling import build_scheduler, image_generators
from slimdiff.sampling.images import to_uint8

STAGES = [dict(channels=8, blocks=1), dict(channels=16, blocks=1, heads=2, cross_attention=True, downsample=False)]


def build(unet=None, **changes):
    unet = dict(type='UNet', sample_size=8, norm_groups=4, stages=STAGES, context_channels=16,
                downsampler=dict(type='WaveletGatedDown'), upsampler=dict(type='WaveletGatedUp')) | (unet or {})
    model = MODELS.build(dict(type='DiffusionModel', num_steps=3, guidance_scale=2.5, unet=unet, **changes)).eval()
    for parameter in model.unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def saved(model, folder):
    assert export_pipeline(model, folder) == 'SlimDiffusionPipeline'
    pipeline = DiffusionPipeline.from_pretrained(folder)
    assert type(pipeline) is SlimDiffusionPipeline
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def assert_alike(pipeline, expected, indices, seed, **call):
    """The same pixels; and the condition counts, or this would prove little."""
    images = pipeline(generator=image_generators(seed, indices), output_type='pt', **call).images
    torch.testing.assert_close(images, expected / 2 + 0.5, rtol=0, atol=1e-5)
    assert images.std() > 0.05


@pytest.fixture(scope='module')
def text(tmp_path_factory):
    """A text model in the latents of a KL first stage, and its pipeline."""
    root = tmp_path_factory.mktemp('text')
    tiny_kl(root / 'kl')
    model = build(
        autoencoder=dict(type='KLAutoencoder', checkpoint=str(root / 'kl'), latent_scale=0.5), sigma_data=None,
        # Random weights: unclipped, the latents are so large that the text hardly counts.
        noise_scheduler=dict(type='DDPMScheduler', clip_sample=True),
        conditioner=dict(type='CLIPText', checkpoint=save_clip(root / 'clip'), channels=16),
        unet=dict(in_channels=4, out_channels=4))
    return model, saved(model, root / 'out'), root


def test_text_to_image_in_latents(text):
    model, pipeline, _ = text
    captions = ['a cat', 'two dogs', 'a cat']
    expected = model.sample(range(3), seed=5, caption=captions)
    assert_alike(pipeline, expected, range(3), 5, prompt=captions)
    other = model.sample(range(2), seed=5, caption=['a cat'] * 2, guidance_scale=1, num_steps=2)
    assert (expected[:2] - other).abs().max() > 1e-3
    assert_alike(pipeline, other, range(2), 5, prompt='a cat', num_images=2, guidance_scale=1, num_inference_steps=2)
    # What guidance leads away from, once as text and once as its embedding.
    embeds = {'prompt_embeds': model.conditioner(captions), 'negative_prompt_embeds': model.conditioner(['dog'])}
    a, b = (pipeline(generator=image_generators(5, range(3)), output_type='np', **call).images
            for call in (dict(prompt=captions, negative_prompt='dog'), embeds))
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert np.abs(a - expected.permute(0, 2, 3, 1).numpy() / 2 - 0.5).max() > 1e-3


def test_the_model_of_a_pipeline_samples_as_it_does(text):
    """Its first stage and scale, text encoder, guidance and steps: what a search from Python works on."""
    model, pipeline, _ = text
    captions = ['a cat', 'two dogs']
    again = model_of(pipeline)
    assert torch.allclose(again.sample(range(2), seed=5, caption=captions),
                          model.sample(range(2), seed=5, caption=captions), rtol=0, atol=1e-5)
    images = torch.rand(2, 3, *again.image_shape[1:]) * 2 - 1
    assert torch.allclose(again.encode(images), model.encode(images), rtol=0, atol=1e-5)


def test_a_network_of_latents_without_their_first_stage_is_not_sampled_as_pixels(text, tmp_path):
    export_pipeline(text[0], tmp_path, unet_only=True)
    with pytest.raises(ValueError, match='works on latents, and their first stage is not there'):
        load_pipeline(tmp_path)


def test_one_forward_a_step_when_guided(text):
    _, pipeline, _ = text
    sizes = []
    handle = pipeline.unet.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    pipeline('a cat', num_images=3, output_type='latent')
    pipeline('a cat', num_images=3, output_type='latent', guidance_scale=1)
    handle.remove()
    assert sizes == [6] * 3 + [3] * 3


def test_the_folder_is_a_text_encoder_for_others(text, tmp_path):
    model, _, root = text
    again = MODELS.build(dict(type='CLIPText', checkpoint=str(root / 'out'), channels=16))
    assert torch.equal(again(['a cat']), model.conditioner(['a cat']))
    bert = build(conditioner=dict(type='LDMBertText', checkpoint=save_ldm_bert(tmp_path / 'bert'), channels=16))
    pipeline = saved(bert, tmp_path / 'out')
    assert_alike(pipeline, bert.sample([0], caption=['a cat']), [0], 0, prompt='a cat')
    again = MODELS.build(dict(type='LDMBertText', checkpoint=str(tmp_path / 'out'), channels=16))
    assert torch.equal(again(['a cat']), bert.conditioner(['a cat']))


@pytest.mark.parametrize('token', [True, False])
def test_classes(token, tmp_path):
    """As a token of cross-attention (LDM's ImageNet model) or in the timestep embedding; the null class included."""
    plain = dict(stages=[dict(channels=8, blocks=1), dict(channels=16, blocks=1, downsample=False)],
                 context_channels=None)
    model = build(num_classes=4, unet=dict(class_token=True) if token else plain)
    pipeline = saved(model, tmp_path / 'out')
    labels = [3, 0, 4, 3, 0]
    expected = model.sample(range(5), seed=2, labels=torch.tensor(labels))
    assert_alike(pipeline, expected, range(5), 2, labels=labels[:3], num_images=5)
    assert_alike(pipeline, model.sample([0], labels=torch.tensor([4])), [0], 0)
    images = pipeline(labels=torch.tensor(labels), generator=image_generators(2, range(5))).images
    assert np.array_equal(np.stack(images), to_uint8(expected).permute(0, 2, 3, 1).numpy())


def test_context_without_a_text_encoder(tmp_path):
    model = build()
    pipeline = saved(model, tmp_path / 'out')
    context = torch.randn(2, 5, 16)
    assert_alike(pipeline, model.sample(range(2), context=context), range(2), 0, prompt_embeds=context)
    with pytest.raises(ValueError, match='it has no text encoder: give prompt_embeds'):
        pipeline('a cat')


def test_generators(text):
    """One generator gives the same twice, none gives something else each time."""
    _, pipeline, _ = text
    a, b = (pipeline('a', num_images=2, generator=torch.Generator().manual_seed(3), output_type='pt').images
            for _ in range(2))
    c, d = (pipeline('a', num_images=2, output_type='pt').images for _ in range(2))
    assert torch.equal(a, b) and not torch.equal(c, d) and not torch.equal(a[0], a[1])


def test_refusals(text):
    _, pipeline, _ = text
    for call, message in ((dict(labels=3), 'knows no classes'), (dict(), 'needs prompt or prompt_embeds'),
                          (dict(prompt='a', num_images=0), 'at least 1'),
                          (dict(prompt='a', output_type='nq'), "Did you mean 'np'"),
                          (dict(prompt='a', generator=[torch.Generator()] * 2), 'got 2 for 1 images'),
                          (dict(prompt_embeds=torch.zeros(1, 77, 8)), r'must be \(N, tokens, 16\)')):
        with pytest.raises(ValueError, match=message):
            pipeline(**call)
    classes = SlimDiffusionPipeline(build(num_classes=4, unet=dict(class_token=True)).unet, pipeline.scheduler)
    for labels in (5, [0, -1], 1.5):
        with pytest.raises(ValueError, match='must lie in 0..3'):
            classes(labels=labels)
    with pytest.raises(ValueError, match="labels are integers, the numbers of classes; got 'shoe'"):
        classes(labels='shoe')


def test_a_scheduler_of_another_process_is_refused_before_the_network_runs(tmp_path):
    model = build(sigma_data=None, unet=dict(context_channels=None, stages=[dict(channels=8)]), sampler=dict(
        type='DDIMScheduler', eta=1.0), noise_scheduler=dict(type='DDPMScheduler', beta_end=0.03))
    torch.nn.init.normal_(model.unet.conv_out.weight, std=1e-3)  # else Heun's rounding errors are seen
    pipeline = saved(model, tmp_path)  # not a stock one: these know no eta of a scheduler
    assert_alike(pipeline, model.sample(range(2), seed=1), range(2), 1, num_images=2)
    pipeline.scheduler = build_scheduler(dict(type='HeunDiscreteScheduler'), base=pipeline.scheduler)
    assert_alike(pipeline, model.sample(range(2), seed=1, scheduler=dict(type='HeunDiscreteScheduler')), range(2), 1,
                 num_images=2)
    pipeline.unet.forward = None
    for scheduler, message in ((HeunDiscreteScheduler(), 'HeunDiscreteScheduler has another noise schedule'),
                               (FlowMatchEulerDiscreteScheduler(), 'FlowMatchEulerDiscreteScheduler cannot sample'),
                               (DDIMScheduler(beta_end=0.03, prediction_type='sample'), 'trained with epsilon')):
        pipeline.scheduler = scheduler
        with pytest.raises(ValueError, match=message):
            pipeline()


def test_stock_pipelines_only_where_they_do_the_same():
    plain = dict(type='UNet', sample_size=8, norm_groups=4, stages=[dict(channels=8)])
    assert stock_pipeline(MODELS.build(dict(type='DiffusionModel', unet=plain))) == 'DDIMPipeline'
    assert stock_pipeline(MODELS.build(dict(type='DiffusionModel', unet=plain, num_classes=2))) is None
    assert stock_pipeline(build()) is None


@pytest.mark.parametrize('first', ['import slimdiff, diffusers', 'import diffusers, slimdiff'])
def test_diffusers_finds_the_class_whichever_is_imported_first(first):
    code = (f'import sys, importlib.util; {first.split(",")[0]}; '
            "heavy = {'torch', 'diffusers'} & set(sys.modules); "
            f"assert not heavy or 'diffusers' in {first.split(',')[0]!r}, heavy; "
            "importlib.util.find_spec('diffusers'); "  # looks, but imports nothing
            f'{first}; assert diffusers.SlimDiffusionPipeline is slimdiff.SlimDiffusionPipeline; '
            "assert diffusers.DDIMPipeline and not hasattr(diffusers, 'NoSuchPipeline')")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
