"""mean_spectra.py and gate_curves.py as a user runs them."""

import json
import os
import re

import pytest

from slimdiff import PreconditionedBackbone, UNet

STAGES = [dict(channels=8, blocks=1), dict(channels=16, blocks=1)]
CONFIG = '''
default_scope = 'slimdiff'
model = dict(type='DiffusionModel', num_classes=12, num_steps=3, unet=dict(
    type='UNet', sample_size=8, norm_groups=4, stages=[dict(channels=8, blocks=1), dict(channels=16, blocks=1)]{more}))
val_dataloader = dict(batch_size=8, sampler=dict(type='DefaultSampler'),
                      dataset=dict(type='PhotoPatches', split='val', image_size=8))
'''
GATED = dict(downsampler=dict(type='WaveletGatedDown'), upsampler=dict(type='WaveletGatedUp'))


@pytest.fixture
def networks(tmp_path):
    """lite.py and gated.py, and a folder of weights for each."""
    for name, more in (('lite', {}), ('gated', GATED)):
        arguments = ''.join(f', {key}={value!r}' for key, value in more.items())
        (tmp_path / f'{name}.py').write_text(CONFIG.format(more=arguments))
        preconditioning = dict(schedule=dict(num_train_timesteps=1000, beta_schedule='linear', beta_start=1e-4,
                                             beta_end=0.02), prediction_type='epsilon', sigma_data=0.5)
        unet = UNet(sample_size=8, norm_groups=4, stages=STAGES, num_classes=12, **more)
        PreconditionedBackbone(unet, preconditioning=preconditioning).save_pretrained(tmp_path / name)
    return tmp_path


def test_mean_spectra(run_tool, networks):
    models = ('--model', 'Lite=lite.py,lite', '--model', 'WG=gated.py,gated')
    done = run_tool('analysis_tools/mean_spectra.py', '--num-images', 24, *models, '--out', 'out')
    printed = re.sub(' +', ' ', done.stdout)
    assert '| Lite | 1 |' in printed and '| real, other images | 1 |' in printed
    result = json.loads((networks / 'out/mean_spectra.json').read_text())
    assert result['frequencies'] == [0.125, 0.25, 0.375, 0.5] and list(result['sources']) == ['Lite', 'WG']
    assert result['sets']['Lite']['runs'][0]['images'] == result['real']['images'] == 24
    assert '--num-images 24' in (networks / 'out/mean_spectra.md').read_text()
    assert (networks / 'out/mean_spectra.png').stat().st_size > 5000
    images = {file: os.stat(file).st_mtime_ns for file in (networks / 'out/images').iterdir()}
    assert len(images) == 2
    run_tool('analysis_tools/mean_spectra.py', '--num-images', 24, *models, '--out', 'out')
    assert images == {file: os.stat(file).st_mtime_ns for file in images}  # not sampled again
    assert json.loads((networks / 'out/mean_spectra.json').read_text())['sets'] == result['sets']


def test_gate_curves(run_tool, networks):
    done = run_tool('analysis_tools/gate_curves.py', 'gated.py', 'gated', '--num-images', 6, '--timesteps', 3,
                    '--out', 'out')
    assert '| up1.upsampler | cD |' in re.sub(' +', ' ', done.stdout)
    run = json.loads((networks / 'out/gate_curves.json').read_text())['runs'][0]
    assert run['noised']['timesteps'] == [999, 500, 0] and len(run['sampling']['timesteps']) == 3
    assert (networks / 'out/gate_curves.png').stat().st_size > 5000
    assert 'gate_curves.py gated.py gated' in (networks / 'out/gate_curves.md').read_text()


def test_bad_input(run_tool, networks):
    done = run_tool('analysis_tools/gate_curves.py', 'lite.py', 'lite', status=2)
    assert 'has no gates: its resamplers are ConvDown, NearestConvUp' in done.stderr
    done = run_tool('analysis_tools/mean_spectra.py', '--model', 'Lite=lite.py,nowhere.pth', status=2)
    assert 'nowhere.pth' in done.stderr and 'Traceback' not in done.stderr
    done = run_tool('analysis_tools/mean_spectra.py', '--model', 'lite.py', status=2)
    assert 'expected NAME=CONFIG,CHECKPOINT' in done.stderr
