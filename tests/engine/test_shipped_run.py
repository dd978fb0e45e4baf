"""The shipped configuration, made small: every hook, validation, resume."""

import json
from pathlib import Path

import pytest
import tiny_run

from slimdiff.checkpoint.files import load_checkpoint
from slimdiff.checkpoint.weights import load_weights
from slimdiff.configuration import load_config
from slimdiff.engine import SlimRunner

SMALL = {
    'model.unet.stages': [dict(channels=8, blocks=1), dict(channels=16, blocks=1, downsample=False)],
    'model.unet.norm_groups': 4, 'model.unet.mid_heads': 1, 'model.num_steps': 2,
    'train_dataloader.batch_size': 4, 'train_dataloader.dataset.length': 20,
    'val_dataloader.dataset.length': 80,
    'train_cfg.max_iters': 8, 'train_cfg.val_interval': 4, 'train_cfg.val_before_train': True,
    'val_cfg.num_images': 24, 'val_cfg.num_real': 40, 'val_cfg.floor_splits': 2, 'val_cfg.sampling.num_steps': 2,
    'val_evaluator': [dict(type='RadialSpectrumDistance')],
    'default_hooks.checkpoint.interval': 4, 'default_hooks.checkpoint.max_keep': 3, 'default_hooks.log.interval': 2,
    'default_hooks.samples.interval': 4, 'default_hooks.samples.num_images': 4, 'default_hooks.samples.num_steps': 2,
    'default_hooks.spectra.interval': 4, 'default_hooks.spectra.num_images': 8, 'default_hooks.spectra.num_steps': 2}


def run(folder, **changes):
    cfg = load_config('configs/sd/photo_patches_16px.py', {**SMALL, **changes})
    cfg.work_dir = str(folder)
    runner = SlimRunner.from_cfg(cfg)
    runner.train()
    return runner


@pytest.mark.parametrize('wrapper', ['SlimOptimWrapper', 'Bf16OptimWrapper'])
def test_resume_bit_for_bit(tmp_path, wrapper):
    whole, cut = tmp_path / 'whole', tmp_path / 'cut'
    runner = run(whole, **{'optim_wrapper.type': wrapper})
    # The other run ends after 4 iterations by a checkpoint that is all it keeps, and evaluates less often.
    cut.mkdir()
    (cut / 'iter_4.pth').write_bytes((whole / 'iter_4.pth').read_bytes())
    run(cut, resume=True, **{'optim_wrapper.type': wrapper, 'train_cfg.val_interval': 8})
    a, b = load_checkpoint(whole / 'iter_8.pth'), load_checkpoint(cut / 'iter_8.pth')
    for key in ('state_dict', 'optimizer', 'ema', 'param_schedulers', 'log'):
        tiny_run.same(a[key], b[key], key)

    for folder in ('samples', 'spectra'):
        assert sorted(p.name for p in (whole / folder).iterdir()) == ['iter_4.png', 'iter_8.png']
    report = json.loads((whole / 'metrics.json').read_text())
    assert [entry['iter'] for entry in report['history']] == [0, 4, 8]
    assert report['final'].keys() == report['untrained'].keys() >= report['real_against_real'].keys() - {
        f'{name}_std' for name in report['final']}
    assert report['final'] == json.loads((cut / 'metrics.json').read_text())['final']

    load_weights(runner.unwrapped_model, whole / 'iter_8.pth')
    for name, value in a['ema']['state_dict'].items():
        tiny_run.same(runner.unwrapped_model.state_dict()[name], value, name)
    assert set(a['ema']['state_dict']) == set(a['state_dict'])  # nothing here is frozen
    assert (whole / Path(runner.cfg.filename).name).exists()
