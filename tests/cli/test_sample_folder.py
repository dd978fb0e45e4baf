"""Images of an earlier run are never passed off as those of another one; full disks, damaged files, two at once."""

import json
import os
import resource
import time

import numpy as np
import pytest
import torch
from PIL import Image

from slimdiff import PreconditionedBackbone
from slimdiff.checkpoint.lock import FolderLock
from slimdiff.cli import sample
from slimdiff.cli.sample import build_model, main
from slimdiff.configuration import load_config
from slimdiff.models.serving import sampling_identity
from slimdiff.registry import MODELS

CONFIG = """
model = dict(
    type='DiffusionModel',
    num_steps=2,
    num_classes=3,
    unet=dict(type='UNet', sample_size=8, norm_groups=4, stages=[dict(channels=8, blocks=1, downsample=False)]))
default_scope = 'slimdiff'
"""
RUN = ['config.py', 'unet', '-n', '3']


@pytest.fixture
def folder(model_folder):
    return model_folder(CONFIG)


def files(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


def change_weights(place, value=None):
    """Train on, so to speak, at the same path."""
    unet = PreconditionedBackbone.from_pretrained(place, low_cpu_mem_usage=False)
    with torch.no_grad():
        unet.conv_out.bias[0] = 1.0 if value is None else value
    unet.save_pretrained(place)


def test_the_same_command_completes_a_folder(folder, capsys):
    assert main([*RUN, '--out', 'imgs']) == 0
    first = files(folder / 'imgs')
    assert set(first) == {'000000.png', '000001.png', '000002.png', 'sampling.json'}
    os.utime(folder / 'imgs/000000.png', (0, 0))
    (folder / 'imgs/000001.png').unlink()
    (folder / 'imgs/000002.png').write_bytes(b'')  # a machine that lost its power while it was written
    (folder / 'imgs/.000001.png.99999999@elsewhere.tmp').touch()
    os.utime(folder / 'imgs/.000001.png.99999999@elsewhere.tmp', (0, 0))
    # The same weights and settings by other names, and more images.
    (folder / 'unet').rename('moved')
    assert main(['config.py', 'moved', '-n', '4', '--steps', '2', '--out', 'imgs', '--batch-size', '1']) == 0
    second = files(folder / 'imgs')
    assert set(second) == {*first, '000003.png'} and all(
        second[name] == first[name] for name in first if name.endswith('.png'))
    assert (folder / 'imgs/000000.png').stat().st_mtime == 0


@pytest.mark.parametrize('what, words', [
    ('weights', []), ('allocation', []), ('config', []), ('num_steps: 2 -> 3', ['--steps', '3']),
    ('guidance_scale: 1', ['--guidance', '2']), ('sampler.type', ['--scheduler', 'DDPMScheduler']),
    ('seed: 0 -> 1', ['--seed', '1']), ("labels: None -> '0'", ['--labels', '0']), ('amp: False -> True', ['--amp'])])
def test_what_changes_the_images_is_refused_and_named(folder, capsys, what, words):
    assert main([*RUN, '--out', 'imgs']) == 0
    before = files(folder / 'imgs')
    if what == 'weights':
        change_weights(folder / 'unet')
        what = 'unet.weights: '
    elif what == 'config':
        (folder / 'config.py').write_text(CONFIG.replace('num_steps=2', 'num_steps=1'))
        what = 'num_steps: 2 -> 1'
    elif what == 'allocation':
        from slimdiff.sampling import StepAllocation
        StepAllocation.uniform(1.0, 1000).save('allocation.json')
        words = ['--allocation', 'allocation.json']
    capsys.readouterr()
    assert main([*RUN, '--out', 'imgs', *words]) == 2
    error = capsys.readouterr().err
    assert 'imgs already holds images made, with other values of' in error and what in error
    assert '--overwrite' in error and files(folder / 'imgs') == before
    assert main([*RUN, '--out', 'imgs', '--overwrite', *words]) == 0
    assert main([*RUN, '--out', 'fresh', *words]) == 0
    assert files(folder / 'imgs') == files(folder / 'fresh')


def test_the_identity_knows_first_stages_and_captions(folder):
    """What is loaded late is in no state dict."""
    first_stage = dict(type='KLAutoencoder', checkpoint=str(folder / 'vae'), latent_scale=0.5)
    config = dict(load_config('config.py').model, autoencoder=first_stage)
    config['unet'] = dict(config['unet'], in_channels=4)
    from diffusers import AutoencoderKL

    def identity(**changes):
        return sampling_identity(MODELS.build({**config, **changes}))

    vae = AutoencoderKL(block_out_channels=(8, ), norm_num_groups=4, latent_channels=4)
    vae.save_pretrained(folder / 'vae')
    before, scaled = identity(), identity(autoencoder=dict(first_stage, latent_scale=1.0))
    assert identity()['autoencoder'] == before['autoencoder'] != scaled['autoencoder']
    with torch.no_grad():
        vae.decoder.conv_out.bias[0] += 1
    vae.save_pretrained(folder / 'vae')
    assert identity()['autoencoder']['weights'] != before['autoencoder']['weights']
    stage = dict(channels=8, blocks=1, downsample=False, cross_attention=True, heads=1)
    text = dict(conditioner=dict(type='RandomText', channels=4),
                unet=dict(config['unet'], context_channels=4, stages=[stage]))
    a, b = (identity(**text, sample_captions=[caption]) for caption in 'ab')
    assert a['captions'] != b['captions'] and a['conditioner'] == b['conditioner']


@pytest.mark.parametrize('words', [['--columns', '3'], ['--zoom', '2'], ['--zoom', '2', '--out', 'all.npz']])
def test_options_of_a_grid_want_a_grid(folder, capsys, words):
    assert main([*RUN, *words]) == 2
    assert '--columns and --zoom are for a grid' in capsys.readouterr().err and not (folder / 'samples').exists()


def test_labels_want_a_model_of_classes(model_folder, capsys):
    folder = model_folder(CONFIG.replace('num_classes=3', 'num_classes=None'))
    assert main([*RUN, '--labels', '1']) == 2
    assert '--labels 1: the model has no classes' in capsys.readouterr().err and not (folder / 'samples').exists()


def test_a_file_that_cannot_be_written_is_named_before_the_images_are_made(folder, capsys, monkeypatch):
    (folder / 'taken').touch()
    assert main([*RUN, '--out', 'taken/grid.png']) == 2
    assert 'taken' in capsys.readouterr().err
    monkeypatch.setattr(os, 'access', lambda *args: False)
    monkeypatch.setattr(sample, 'labels_for', lambda text, indices, classes: 1 / 0 if indices else None)
    assert main([*RUN, '--out', 'grid.png']) == 2
    assert "Permission denied: 'grid.png'" in capsys.readouterr().err


def test_home_in_the_middle_of_a_word(folder, monkeypatch):
    monkeypatch.setenv('HOME', str(folder / 'home'))
    assert main([*RUN, '--out=~/grid.png']) == 0
    assert (folder / 'home/grid.png').is_file() and not (folder / '~').exists()


@pytest.mark.parametrize('content', ['{"identity": {"see', '[]', '{}', '[' * 100_000])
def test_a_damaged_note_is_named(folder, capsys, content):
    assert main([*RUN, '--out', 'imgs']) == 0
    (folder / 'imgs/sampling.json').write_text(content)
    assert main([*RUN, '--out', 'imgs']) == 2
    error = capsys.readouterr().err
    assert 'imgs/sampling.json' in error and '--overwrite' in error and 'Traceback' not in error
    (folder / 'imgs/sampling.json').unlink()
    assert main([*RUN, '--out', 'imgs']) == 2
    assert 'no sampling.json' in capsys.readouterr().err


@pytest.mark.parametrize('out', ['imgs', 'grid.png', 'all.npz'])
def test_a_disk_that_takes_no_more(folder, capsys, monkeypatch, out):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def build_and_limit(*args):
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))  # of any file; config.py was read by now
        return build_model(*args)

    monkeypatch.setattr(sample, 'build_model', build_and_limit)
    try:
        assert main([*RUN, '--out', out]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    error = capsys.readouterr().err
    assert f'{out}' in error and 'could not be written: the disk is full. Free some space and run' in error
    assert 'Traceback' not in error
    assert main([*RUN, '--out', out]) == 0  # what is there is whole


def test_two_at_once(folder, capsys):
    with FolderLock(folder / 'imgs', 'sampling'):
        assert main([*RUN, '--out', 'imgs']) == 2
    assert f'imgs is in use by process {os.getpid()} on' in capsys.readouterr().err
    assert main([*RUN, '--out', 'imgs']) == 0


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_weights_that_are_not_finite(folder, capsys, value):
    change_weights(folder / 'unet', value)
    assert main([*RUN, '--out', 'imgs']) == 2
    assert 'unet holds NaN or infinity in 1 (network.conv_out.bias)' in capsys.readouterr().err
    assert not (folder / 'imgs').exists()


def test_a_deeply_nested_config_of_a_folder(folder, capsys):
    (folder / 'unet/config.json').write_text('{"a":' * 100_000 + '1' + '}' * 100_000)
    assert main([*RUN, '--out', 'imgs']) == 2
    assert 'unet/config.json is damaged: nested too deeply' in capsys.readouterr().err


def test_pictures_of_any_kind(folder, capsys):
    for name, kind in (('grid.jpg', 'JPEG'), ('grid.PNG', 'PNG'), ('grid.Webp', 'WEBP')):
        assert main([*RUN, '--out', name, '--columns', '3']) == 0
        with Image.open(folder / name) as picture:
            assert picture.format == kind and picture.size == (28, 8)
    assert main([*RUN, '--out', 'ALL.NPZ']) == 0
    with np.load('ALL.NPZ') as data:
        assert data['images'].shape == (3, 8, 8, 3)
        assert json.loads(str(data['settings']))['identity']['num_steps'] == 2
    start = time.monotonic()
    (folder / 'taken.png').mkdir()
    (folder / 'taken').touch()
    for name, message in (('x.psd', "can't be written as .psd"), ('taken.png', 'is a folder, but the ending .png'),
                          ('taken', 'is a file; give a folder')):
        assert main([*RUN, '--out', name]) == 2
        assert message in capsys.readouterr().err
    assert time.monotonic() - start < 30
