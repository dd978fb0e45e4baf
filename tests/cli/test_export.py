"""What slimdiff exports, stock pipelines of diffusers sample alike."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDPMPipeline, DDPMScheduler

import slimdiff
from slimdiff.checkpoint import load_checkpoint, save_checkpoint
from slimdiff.cli.export import main
from slimdiff.configuration import load_config
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
    save_checkpoint({'meta': {'format': 'slimdiff-checkpoint', 'format_version': 1}, 'state_dict': state,
                     'ema': {'state_dict': averages}}, checkpoint)
    return config, checkpoint, network


def as_images(pixels):
    return pixels.permute(0, 2, 3, 1).numpy() / 2 + 0.5


@pytest.mark.parametrize('classes', [None, 12])
def test_ddim_pipeline_gives_the_images_of_sample(tmp_path, run_tool, capsys, classes):
    config, checkpoint, model = make(tmp_path, num_classes=classes)
    out = tmp_path / 'exported'
    assert main([str(config), str(checkpoint), str(out)]) == 0
    assert 'DDIMPipeline' in capsys.readouterr().out
    pipeline = DDIMPipeline.from_pretrained(out)
    indices = [0, 1, 5]
    images = pipeline(batch_size=3, generator=image_generators(7, indices), num_inference_steps=5,
                      output_type='np').images
    null = None if classes is None else torch.full((3, ), classes)
    expected = as_images(model.sample(indices, seed=7, labels=null))
    assert images.shape == (3, 16, 16, 3) and images.std() > 0.05
    np.testing.assert_allclose(images, expected, atol=1e-5)
    # The command, from the checkpoint and from what was exported: the same bytes.
    for source, name in ((checkpoint, 'a.npz'), (out, 'b.npz'), (out / 'unet', 'c.npz')):
        run_tool('sample.py', config, source, '--out', tmp_path / name, '-n', 2, '--seed', 7, '--labels', 'none')
    a, b, c = (np.load(tmp_path / name)['images'] for name in ('a.npz', 'b.npz', 'c.npz'))
    assert np.array_equal(a, b) and np.array_equal(a, c)
    assert np.abs(a - 255 * expected[:2]).max() <= 0.5 + 1e-2


def test_ddpm_pipeline_too(tmp_path):
    config, checkpoint, model = make(tmp_path, sampler=dict(_delete_=True, type='DDPMScheduler'))
    assert main([str(config), str(checkpoint), str(tmp_path / 'out')]) == 0
    pipeline = DDPMPipeline.from_pretrained(tmp_path / 'out')
    images = pipeline(batch_size=2, generator=image_generators(1, range(2)), num_inference_steps=5,
                      output_type='np').images
    expected = as_images(model.sample(range(2), seed=1, labels=torch.full((2, ), 12)))
    np.testing.assert_allclose(images, expected, atol=1e-5)


def test_a_distilled_student_leaves_without_teacher_and_projections(tmp_path):
    extra = {'projections.up1.weight': torch.zeros(32, 8, 1, 1)}
    config, checkpoint, model = make(tmp_path, DISTILLED, extra)
    assert main([str(config), str(checkpoint), str(tmp_path / 'out')]) == 0
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['model_index.json', 'scheduler', 'unet']
    unet = slimdiff.UNet.from_pretrained(tmp_path / 'out/unet')
    assert unet.state_dict().keys() == model.unet.state_dict().keys()
    for name, value in model.unet.state_dict().items():
        assert torch.equal(unet.state_dict()[name], value), name
    index = json.loads((tmp_path / 'out/model_index.json').read_text())
    assert index['unet'] == ['slimdiff', 'UNet'] and index['scheduler'] == ['diffusers', 'DDIMScheduler']


def test_weights_dtype_and_replacing_an_earlier_export(tmp_path):
    config, checkpoint, model = make(tmp_path)
    out = tmp_path / 'out'
    assert main([str(config), str(checkpoint), str(out), '--dtype', 'bfloat16', '--weights', 'online']) == 0
    unet = slimdiff.UNet.from_pretrained(out / 'unet', torch_dtype=torch.bfloat16)
    online = load_checkpoint(checkpoint)['state_dict']['unet.stem.weight']
    assert unet.dtype == torch.bfloat16
    torch.testing.assert_close(unet.stem.weight, online.bfloat16())
    assert main([str(config), str(checkpoint), str(out)]) == 0
    torch.testing.assert_close(slimdiff.UNet.from_pretrained(out / 'unet').stem.weight, model.unet.stem.weight)


def test_other_samplers_leave_a_unet_and_a_scheduler(tmp_path, capsys):
    config, checkpoint, _ = make(tmp_path, sampler=dict(_delete_=True, type='DPMSolverMultistepScheduler'))
    out = tmp_path / 'out'
    assert main([str(config), str(checkpoint), str(out)]) == 0
    assert 'No stock pipeline' in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == ['scheduler', 'unet']
    assert DDPMScheduler.from_pretrained(out / 'scheduler').config.beta_schedule == 'linear'


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
    done = run_tool('sample.py', config, tmp_path / 'mine', status=2)
    assert 'holds neither unet/config.json' in done.stderr and 'Traceback' not in done.stderr
