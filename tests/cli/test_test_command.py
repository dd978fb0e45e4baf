"""``slimdiff test`` measures the checkpoint on its command line, whatever else the config would load."""

import json

import pytest

from slimdiff import PreconditionedBackbone, engine
from slimdiff.cli.test import main

CONFIG = """
model = dict(
    type='DiffusionModel',
    num_steps=2,
    unet=dict(type='UNet', sample_size=8, norm_groups=4, stages=[dict(channels=8, blocks=1, downsample=False)]))
default_scope = 'slimdiff'
test_dataloader = dict(batch_size=8, sampler=dict(type='DefaultSampler', shuffle=False),
                       collate_fn=dict(type='default_collate'),
                       dataset=dict(type='PhotoPatches', split='val', image_size=8, length=8))
test_evaluator = [dict(type='BandwiseDenoisingError')]
test_cfg = dict(type='EvaluationLoop')
"""


@pytest.mark.parametrize('set_by', ['config', 'option', None])
def test_amp_is_that_of_the_config_or_the_option(model_folder, monkeypatch, set_by):
    folder, seen = model_folder(CONFIG), []
    (folder / 'config.py').write_text(CONFIG.replace("'EvaluationLoop'", f"'EvaluationLoop', amp={set_by == 'config'}"))

    def stop(cfg):
        seen.append(cfg.test_cfg.amp)
        raise SystemExit

    monkeypatch.setattr(engine.SlimRunner, 'from_cfg', stop)
    with pytest.raises(SystemExit):
        main(['config.py', 'unet', '--work-dir', 'a', *(['--amp'] if set_by == 'option' else [])])
    assert seen == [set_by is not None]


@pytest.mark.parametrize('loads', ["'nowhere.pth'", "'other.pth'"])
def test_load_from_of_the_config_is_not_loaded(model_folder, capsys, loads):
    folder = model_folder(CONFIG)
    assert main(['config.py', 'unet', '--work-dir', 'a', '--json', 'a/figures.json']) == 0
    if 'other' in loads:
        import torch

        from slimdiff.checkpoint import save_checkpoint
        from slimdiff.checkpoint.files import FORMAT
        weights = PreconditionedBackbone.from_pretrained('unet').state_dict()
        other = {f'unet.{k}': torch.ones_like(v) for k, v in weights.items()}
        save_checkpoint(dict(meta=dict(format=FORMAT, format_version=2), state_dict=other), 'other.pth')
    (folder / 'config.py').write_text(f'{CONFIG}load_from = {loads}\nresume = True\n')
    assert main(['config.py', 'unet', '--work-dir', 'b', '--json', 'b/figures.json']) == 0
    (folder / 'config.py').write_text(f'{CONFIG}load_from = {loads}\n')
    assert main(['config.py', 'unet', '--work-dir', 'c', '--json', 'c/figures.json']) == 0
    a, b, c = (json.loads((folder / name / 'figures.json').read_text()) for name in 'abc')
    assert a == b == c and a['denoise/total'] > 0
