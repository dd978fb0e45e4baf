"""What slimdiff exports, pipelines of diffusers sample alike, stock ones where they can; programs give its numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    UNet2DModel,
    UniPCMultistepScheduler,
)
from first_stages import tiny_vq

import slimdiff
from slimdiff.checkpoint import load_checkpoint, save_checkpoint
from slimdiff.cli.export import main, parse
from slimdiff.configuration import load_config
from slimdiff.export.program import random_inputs
from slimdiff.models.serving import serving_config
from slimdiff.registry import MODELS
from slimdiff.sampling import image_generators

ROOT = Path(__file__).resolve().parents[2]
STAGES = [dict(channels=8, blocks=1), dict(channels=16, blocks=1, downsample=False)]
CONFIG = f"""
_base_ = '{ROOT}/configs/sd/photo_patches_16px_gated.py'
model = dict(num_steps=5, unet=dict(stages={STAGES!r}))
"""
DISTILLED = f"""
_base_ = '{ROOT}/configs/sd/photo_patches_16px.py'
model = dict(num_steps=5, unet=dict(stages={STAGES!r}), teacher=dict(checkpoint='no/such/teacher'))
"""


def make(folder, text=CONFIG, extra=None, **model):
    """A config and a checkpoint, whose averaged weights are not those that were trained; returns both and the EMA's
    model."""
    config = folder / 'config.py'
    config.write_text(text + ''.join(f'\nmodel.update({key}={value!r})' for key, value in model.items()))
    cfg = load_config(str(config))
    network = MODELS.build(serving_config(cfg.model)).eval()
    for parameter in network.unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    averages = {k: v.clone() for k, v in network.state_dict().items()} | (extra or {})
    state = {k: v + 1 for k, v in averages.items()}
    checkpoint = folder / 'iter_1.pth'
    save_checkpoint({'meta': {'format': 'slimdiff-checkpoint', 'format_version': 2}, 'state_dict': state,
                     'ema': {'state_dict': averages}}, checkpoint)
    return config, checkpoint, network


def as_images(pixels):
    return pixels.permute(0, 2, 3, 1).numpy() / 2 + 0.5


@pytest.mark.parametrize('classes', [None, 12])
def test_ddim_pipeline_gives_the_images_of_sample(tmp_path, run_tool, capsys, classes):
    steps = 50 if classes is None else 5  # 50 are DDIMPipeline's own
    config, checkpoint, model = make(tmp_path, num_classes=classes, num_steps=steps)
    out = tmp_path / 'exported'
    assert main([str(config), str(checkpoint), str(out)]) == 0
    said = capsys.readouterr()
    assert ('DDIMPipeline' if classes is None else 'SlimDiffusionPipeline') in said.out
    assert 'should be kept in float32' not in said.err  # a warning of diffusers about nothing
    pipeline = DDIMPipeline.from_pretrained(out)
    indices = [0, 1, 5]
    images = pipeline(batch_size=3, generator=image_generators(7, indices), num_inference_steps=steps,
                      output_type='np').images
    null = None if classes is None else torch.full((3, ), classes)
    expected = as_images(model.sample(indices, seed=7, labels=null))
    assert images.shape == (3, 16, 16, 3) and images.std() > 0.05
    np.testing.assert_allclose(images, expected, atol=1e-5)
    # The command, from the checkpoint and from what was exported: the same bytes.
    for source, name in ((checkpoint, 'a.npz'), (out, 'b.npz'), (out / 'unet', 'c.npz')):
        # Diffusers' log goes to the stderr of its import: only another process's is seen here.
        done = run_tool('sample.py', config, source, '--out', tmp_path / name, '-n', 2, '--seed', 7, '--labels', 'none',
                        process=source != checkpoint and classes is None)
        assert 'accelerate' not in done.stderr  # another
    a, b, c = (np.load(tmp_path / name)['images'] for name in ('a.npz', 'b.npz', 'c.npz'))
    assert np.array_equal(a, b) and np.array_equal(a, c)
    assert np.abs(a - 255 * expected[:2]).max() <= 0.5 + 1e-2


def test_ddpm_pipeline_too(tmp_path):
    config, checkpoint, model = make(tmp_path, sampler=dict(_delete_=True, type='DDPMScheduler'), num_classes=None,
                                     num_steps=1000)
    assert main([str(config), str(checkpoint), str(tmp_path / 'out')]) == 0
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / 'out')
    assert type(pipeline) is DDPMPipeline
    images = pipeline(batch_size=2, generator=image_generators(1, range(2)), num_inference_steps=5,
                      output_type='np').images
    expected = as_images(model.sample(range(2), seed=1, num_steps=5))
    np.testing.assert_allclose(images, expected, atol=1e-5)


def test_the_number_of_steps_is_kept(tmp_path):
    """Which stock pipelines have no place for."""
    config, checkpoint, model = make(tmp_path, num_classes=None, num_steps=4)
    assert main([str(config), str(checkpoint), str(tmp_path / 'out')]) == 0
    pipeline = slimdiff.load(tmp_path / 'out', device='cpu')
    assert pipeline.config.num_inference_steps == 4
    images = pipeline(num_images=2, seed=1, output_type='np').images
    np.testing.assert_allclose(images, as_images(model.sample(range(2), seed=1)), atol=1e-5)


def test_a_pipeline_of_somebody_else_is_not_replaced(tmp_path, capsys):
    config, checkpoint, _ = make(tmp_path, num_classes=None)
    DDPMPipeline(UNet2DModel(sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
                             down_block_types=('DownBlock2D', ) * 2, up_block_types=('UpBlock2D', ) * 2),
                 DDPMScheduler()).save_pretrained(tmp_path / 'theirs')
    for _ in range(2):
        assert main([str(config), str(checkpoint), str(tmp_path / 'theirs')]) == 2
        assert 'holds a pipeline that slimdiff has not written' in capsys.readouterr().err
        assert type(DiffusionPipeline.from_pretrained(tmp_path / 'theirs').unet) is UNet2DModel
        assert main([str(config), str(checkpoint), str(tmp_path / 'ours')]) == 0  # twice: an earlier export is


def test_bfloat16_of_an_unconditional_model(tmp_path):
    """diffusers' own pipelines cannot turn bfloat16 into images."""
    config, checkpoint, _ = make(tmp_path, num_classes=None, num_steps=50)
    assert main([str(config), str(checkpoint), str(tmp_path / 'out'), '--dtype', 'bfloat16']) == 0
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / 'out', torch_dtype=torch.bfloat16)
    assert pipeline.unet.dtype == torch.bfloat16
    assert pipeline(num_images=1, num_inference_steps=2).images[0].size == (16, 16)


def test_a_distilled_student_leaves_without_teacher_and_projections(tmp_path):
    extra = {'projections.up1.weight': torch.zeros(32, 8, 1, 1)}
    config, checkpoint, model = make(tmp_path, DISTILLED, extra)
    assert main([str(config), str(checkpoint), str(tmp_path / 'out')]) == 0
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['model_index.json', 'scheduler', 'unet']
    unet = slimdiff.PreconditionedBackbone.from_pretrained(tmp_path / 'out/unet')
    assert unet.state_dict().keys() == model.unet.state_dict().keys()
    for name, value in model.unet.state_dict().items():
        assert torch.equal(unet.state_dict()[name], value), name
    index = json.loads((tmp_path / 'out/model_index.json').read_text())
    assert index['unet'] == ['slimdiff', 'PreconditionedBackbone']
    assert index['scheduler'] == ['diffusers', 'DDIMScheduler']


def test_weights_dtype_and_replacing_an_earlier_export(tmp_path):
    config, checkpoint, model = make(tmp_path)
    out = tmp_path / 'out'
    assert main([str(config), str(checkpoint), str(out), '--dtype', 'bfloat16', '--weights', 'online']) == 0
    unet = slimdiff.PreconditionedBackbone.from_pretrained(out / 'unet', torch_dtype=torch.bfloat16)
    online = load_checkpoint(checkpoint)['state_dict']['unet.network.stem.weight']
    assert unet.dtype == torch.bfloat16
    torch.testing.assert_close(unet.stem.weight, online.bfloat16())
    assert main([str(config), str(checkpoint), str(out)]) == 0
    unet = slimdiff.PreconditionedBackbone.from_pretrained(out / 'unet')
    torch.testing.assert_close(unet.stem.weight, model.unet.stem.weight)


def test_a_sampler_that_no_stock_pipeline_runs(tmp_path):
    config, checkpoint, model = make(tmp_path, sampler=dict(_delete_=True, type='UniPCMultistepScheduler'))
    out = tmp_path / 'out'
    assert main([str(config), str(checkpoint), str(out)]) == 0
    pipeline = DiffusionPipeline.from_pretrained(out)
    assert type(pipeline) is slimdiff.SlimDiffusionPipeline
    assert isinstance(pipeline.scheduler, UniPCMultistepScheduler)
    images = pipeline(labels=[3, 12], generator=image_generators(1, range(2)), output_type='np').images
    expected = as_images(model.sample(range(2), seed=1, labels=torch.tensor([3, 12])))
    np.testing.assert_allclose(images, expected, atol=1e-5)


def test_a_latent_model_leaves_with_its_first_stage(tmp_path, capsys):
    network = tiny_vq(tmp_path / 'vq', scaling_factor=0.18215)
    config, checkpoint, model = make(tmp_path, autoencoder=dict(
        type='VQAutoencoder', checkpoint=str(tmp_path / 'vq'), latent_scale=0.8), num_classes=None)
    out = tmp_path / 'out'
    assert main([str(config), str(checkpoint), str(out)]) == 0
    assert sorted(p.name for p in out.iterdir()) == ['model_index.json', 'scheduler', 'unet', 'vqvae']
    assert not [p for p in out.rglob('*') if p.suffix in ('.bin', '.pth', '.pt', '.pkl')]
    pipeline = DiffusionPipeline.from_pretrained(out)
    assert pipeline.vqvae.config.scaling_factor == pipeline.config.latent_scale == 0.8
    for name, value in network.state_dict().items():
        assert torch.equal(pipeline.vqvae.state_dict()[name], value), name
    images = pipeline(num_images=2, generator=image_generators(4, range(2)), output_type='pt').images
    torch.testing.assert_close(images, model.sample(range(2), seed=4) / 2 + 0.5, rtol=0, atol=1e-5)
    # The folder serves as first stage of other models, and the command samples it.
    assert main([str(config), str(checkpoint), str(tmp_path / 'again'), '--cfg-options',
                 f'model.autoencoder.checkpoint={out}', 'model.autoencoder.latent_scale=None']) == 0
    assert DiffusionPipeline.from_pretrained(tmp_path / 'again').config.latent_scale == 0.8
    # Where the first stage is not at hand, the network goes alone.
    missing = ['--cfg-options', 'model.autoencoder.checkpoint=no/such/folder']
    capsys.readouterr()
    assert main([str(config), str(checkpoint), str(tmp_path / 'not'), *missing]) == 2
    assert "'no/such/folder' is not there" in capsys.readouterr().err and not (tmp_path / 'not').exists()
    assert main([str(config), str(checkpoint), str(out), '--unet-only', *missing]) == 0
    assert sorted(p.name for p in out.iterdir()) == ['scheduler', 'unet']


def test_torch_program(tmp_path, capsys):
    config, checkpoint, model = make(tmp_path)
    out = tmp_path / 'unet.pt2'
    assert main([str(config), str(checkpoint), str(out)]) == 0  # .pt2 says which format
    said = capsys.readouterr().out
    assert 'class_labels  batch  int64' in said and 'batch 3: largest difference' in said and 'x as fast' in said
    extra = {'slimdiff.json': ''}
    program = torch.export.load(out, extra_files=extra).module()
    assert json.loads(extra['slimdiff.json'])['scheduler'] == 'DDIMScheduler'
    inputs = random_inputs(model.unet, 5)
    with torch.no_grad():
        expected = model.unet(**inputs).sample
    torch.testing.assert_close(program(**inputs), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.1 and not list(tmp_path.glob('.*'))


@pytest.mark.parametrize('words, format', [
    (['u.onnx'], 'onnx'), (['u.pt2'], 'torch'), (['u'], 'diffusers'), (['v1.5'], 'diffusers'), (['U.ONNX'], 'onnx'),
    (['u.onnx', '--format', 'onnx'], 'onnx'), (['u', '--format', 'diffusers'], 'diffusers')])
def test_the_end_of_the_name_says_the_format(words, format):
    assert parse(['config.py', 'x.pth', *words]).format == format


@pytest.mark.parametrize('words, message', [
    (['u.pt2', '--format', 'onnx'], '--format onnx writes a file: OUT must end in .onnx, got u.pt2'),
    (['u', '--format', 'torch'], '--format torch writes a file: OUT must end in .pt2, got u'),
    (['u.onnx', '--format', 'diffusers'], '--format diffusers writes a folder, but OUT is u.onnx: leave --format out'),
    (['u.pt2', '--dtype', 'bfloat16'], '--format torch is in float32'),
    (['u', '--opset', '18'], '--opset is for ONNX programs: OUT must end in .onnx, got u'),
])
def test_a_format_that_contradicts_the_name(words, message, capsys):
    with pytest.raises(SystemExit):
        parse(['config.py', 'x.pth', *words])
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_an_opset_that_is_too_old_is_refused_before_the_work(tmp_path, capsys):
    config, checkpoint, _ = make(tmp_path)
    for opset in ('17', '1', '-3'):
        assert main([str(config), str(checkpoint), str(tmp_path / 'u.onnx'), '--opset', opset]) == 2
        assert f"--opset {opset}: 18 is the least that PyTorch's ONNX exporter writes" in capsys.readouterr().err
    assert not (tmp_path / 'u.onnx').exists()


def test_refusals(tmp_path, run_tool):
    config, checkpoint, _ = make(tmp_path)
    tool = 'model_converters/export.py'
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/thesis.tex').touch()
    done = run_tool(tool, config, checkpoint, tmp_path / 'mine', status=2)
    assert 'mine holds thesis.tex' in done.stderr and 'Traceback' not in done.stderr
    assert [p.name for p in (tmp_path / 'mine').iterdir()] == ['thesis.tex']
    assert main([str(config), str(checkpoint), str(checkpoint)]) == 2
    assert main([str(config), str(tmp_path / 'none.pth'), str(tmp_path / 'new')]) == 2
    assert not (tmp_path / 'new').exists()
    with pytest.raises(SystemExit):  # argparse's
        main([str(config), str(checkpoint), str(tmp_path / 'unet.onnx'), '--format', 'torch'])
    done = run_tool('sample.py', config, tmp_path / 'mine', status=2)
    assert 'holds neither unet/config.json' in done.stderr and 'Traceback' not in done.stderr
