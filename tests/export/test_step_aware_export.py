"""A step-aware model through the commands and through a folder of diffusers: the same images everywhere."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from first_stages import tiny_vq

import slimdiff
from slimdiff.checkpoint import save_checkpoint
from slimdiff.cli import export, sample
from slimdiff.cli import test as test_command
from slimdiff.configuration import load_config
from slimdiff.models.backbones import make_step_aware
from slimdiff.models.serving import serving_config
from slimdiff.registry import MODELS
from slimdiff.sampling import image_generators
from slimdiff.sampling.actions import Reuse, Run
from slimdiff.sampling.allocation import StepAllocation

ROOT = Path(__file__).resolve().parents[2]
STAGES = [dict(channels=16, blocks=1), dict(channels=16, blocks=1, downsample=False)]
CONFIG = f"""
_base_ = '{ROOT}/configs/sd/photo_patches_16px_gated.py'
model = dict(num_steps=6, unet=dict(type='SlimmableUNet', widths=(0.25, 0.5, 1.0), norm_groups=4, stages={STAGES!r}))
"""
LADDER = StepAllocation.from_pieces([300, 600], [Run(1.0), Run(0.5), Run(0.25)])
REUSING = StepAllocation.from_pieces([200, 400, 600], [Reuse('features'), Reuse('prediction'), Run(1.0), Run(0.5)])
NARROW = StepAllocation.prefix(0.25, 0.5, 0.5)


def make(folder, allocation, **model):
    """A config, a checkpoint and an allocation as files, and the model itself without it."""
    config = folder / 'config.py'
    config.write_text(CONFIG + ''.join(f'\nmodel.update({key}={value!r})' for key, value in model.items()))
    network = MODELS.build(serving_config(load_config(str(config)).model)).eval()
    for parameter in network.unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    checkpoint = folder / 'iter_1.pth'
    save_checkpoint({'meta': {'format': 'slimdiff-checkpoint', 'format_version': 2},
                     'state_dict': network.state_dict(), 'ema': {'state_dict': network.state_dict()}}, checkpoint)
    allocation.save(folder / 'allocation.json')
    return [str(config), str(checkpoint)], ['--allocation', str(folder / 'allocation.json')], network


@pytest.mark.parametrize('name', ['LADDER', 'REUSING', 'NARROW'])
def test_the_pipeline_reproduces_sample(tmp_path, name, capsys):
    allocation, classes = globals()[name], None if name == 'LADDER' else 12
    files, option, model = make(tmp_path, allocation, num_classes=classes, guidance_scale=2.0)
    out = tmp_path / 'out'
    plain = model.sample(range(2), seed=7)
    assert export.main([*files, str(out), *option]) == 0
    assert 'step-aware UNet (float32, ema weights)' in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == ['model_index.json', 'scheduler', 'unet']
    assert [p.name for p in (out / 'unet').iterdir() if p.suffix == '.safetensors'] == [
        'diffusion_pytorch_model.safetensors']
    expected = make_step_aware(model, allocation).sample(range(2), seed=7)
    assert (expected - plain).abs().max() > 1e-2

    pipeline = DiffusionPipeline.from_pretrained(out)
    assert type(pipeline.unet) is slimdiff.StepAwareUNet and pipeline.unet.allocation == allocation
    pipeline.set_progress_bar_config(disable=True)
    call = dict(generator=image_generators(7, range(2)), num_inference_steps=6, output_type='np')
    call |= dict(num_images=2) if classes is None else dict(labels=[0, 1])
    images = pipeline(**call).images
    np.testing.assert_allclose(images, expected.permute(0, 2, 3, 1).numpy() / 2 + 0.5, atol=1e-5)
    assert images.std() > 0.05

    # The command, from the checkpoint and the allocation, and from the folder alone: the same bytes.
    for number, arguments in enumerate(([files[1], *option], [str(out)], [str(out / 'unet')])):
        assert sample.main([files[0], *arguments, '--out', str(tmp_path / f'{number}.npz'), '-n', '2',
                            '--seed', '7']) == 0
    a, b, c = (np.load(tmp_path / f'{number}.npz')['images'] for number in range(3))
    assert np.array_equal(a, b) and np.array_equal(a, c)
    assert np.abs(a - 255 * images).max() <= 0.5 + 1e-2


def test_a_latent_model_in_bfloat16(tmp_path):
    tiny_vq(tmp_path / 'vq', scaling_factor=0.18215)
    files, option, model = make(tmp_path, LADDER, num_classes=None, autoencoder=dict(
        type='VQAutoencoder', checkpoint=str(tmp_path / 'vq'), latent_scale=0.8))
    assert export.main([*files, str(tmp_path / 'out'), *option]) == 0
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / 'out')
    images = pipeline(num_images=2, generator=image_generators(4, range(2)), output_type='pt').images
    expected = make_step_aware(model, LADDER).sample(range(2), seed=4)
    torch.testing.assert_close(images, expected / 2 + 0.5, rtol=0, atol=1e-5)
    assert export.main([*files, str(tmp_path / 'half'), *option, '--dtype', 'bfloat16']) == 0
    half = DiffusionPipeline.from_pretrained(tmp_path / 'half', torch_dtype=torch.bfloat16)
    assert half.unet.dtype == torch.bfloat16
    images = half(num_images=2, generator=image_generators(4, range(2)), output_type='pt').images.float()
    assert (images - expected / 2 - 0.5).abs().mean() < 0.05


def test_the_metrics_of_a_step_aware_model(tmp_path, monkeypatch):
    """`slimdiff test` with an allocation has other figures, without one the same twice."""
    monkeypatch.chdir(tmp_path)
    files, option, _ = make(tmp_path, NARROW)
    with open(files[0], 'a') as config:
        config.write("\ntest_evaluator = [dict(type='RadialSpectrumDistance')]\n")
    short = ['--num-images', '8', '--steps', '2', '--cfg-options', 'test_dataloader.dataset.length=16']
    figures = []
    for number, arguments in enumerate(([], [], option)):
        path = tmp_path / f'{number}.json'
        assert test_command.main([*files, *arguments, '--json', str(path), *short]) == 0
        figures.append(json.loads(path.read_text()))
    assert figures[0] == figures[1] and figures[0].keys() == figures[2].keys() and figures[0] != figures[2]


def test_refusals(tmp_path, capsys):
    files, option, _ = make(tmp_path, StepAllocation.prefix(0.75, 1.0, 0.5))
    out = str(tmp_path / 'out')
    for main, arguments in ((export.main, [*files, out]), (sample.main, [*files, '--out', f'{out}.npz'])):
        assert main([*arguments, *option]) == 2
        assert 'runs at width 0.75, but the network has 0.25, 0.5, 1' in capsys.readouterr().err
    StepAllocation.uniform(0.5, num_train_timesteps=500).save(option[1])
    assert sample.main([*files, '--out', f'{out}.npz', *option]) == 2
    said = capsys.readouterr().err
    assert 'for 500 training timesteps' in said and 'the model has 1000' in said
    Path(option[1]).write_text('{"version": 1, "num_train_timesteps": 1000, "segments": [{"start": 1, "stop": 1000, '
                               '"width": 1.0}]}')
    assert sample.main([*files, '--out', f'{out}.npz', *option]) == 2
    assert 'must start at 0' in capsys.readouterr().err
    assert sample.main([*files, '--out', f'{out}.npz', '--allocation', str(tmp_path / 'none.json')]) == 2
    assert 'none.json' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        export.main([*files, f'{out}.pt2', '--format', 'torch', *option])
    assert 'is for folders of diffusers' in capsys.readouterr().err
    # A folder that has an allocation takes no other; nor is it the network of another config.
    LADDER.save(option[1])
    assert export.main([*files, out, *option]) == 0
    assert sample.main([files[0], out, *option, '--out', f'{out}.npz']) == 2
    assert 'already has an allocation' in capsys.readouterr().err
    other = tmp_path / 'other'
    other.mkdir()
    config = make(other, NARROW, num_classes=None)[0][0]
    assert sample.main([config, out, '--out', f'{out}.npz']) == 2
    assert 'is of another architecture' in capsys.readouterr().err
    NARROW.save(option[1])
    assert export.main([*files, out, *option]) == 0
    assert sample.main([config, out, '--out', f'{out}.npz']) == 2
    assert 'but num_classes is' in capsys.readouterr().err
    assert not Path(f'{out}.npz').exists()


def test_images_of_other_settings_are_not_mixed(tmp_path, capsys):
    files, option, _ = make(tmp_path, LADDER)
    out = tmp_path / 'images'
    arguments = [*files, '--out', str(out), '-n', '1', '--steps', '2']
    assert sample.main(arguments) == 0
    capsys.readouterr()
    assert sample.main([*arguments, *option]) == 2
    error = capsys.readouterr().err
    assert 'already holds images made' in error and 'allocation' in error
