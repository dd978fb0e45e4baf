"""Values of the right type that a library refuses when it is given them: one line and exit status 2, nothing made."""

import pytest

from slimdiff.cli import get_flops, train

CONFIG = """
model = dict(type='DiffusionModel', num_steps=2, unet=dict(type='UNet', sample_size=8, norm_groups=2,
             stages=[dict(channels=8, blocks=1, downsample=False)]))
train_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type='ResumableSampler'),
                        dataset=dict(type='RandomSamples', shape=(3, 8, 8)))
val_dataloader = dict(batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False),
                      dataset=dict(type='RandomSamples', shape=(3, 8, 8), length=4))
val_evaluator = [dict(type='RadialSpectrumDistance')]
val_cfg = dict(type='EvaluationLoop', num_images=2, batch_size=2)
train_cfg = dict(type='IterTrainLoop', max_iters=1)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4))
log_level = 'INFO'
default_scope = 'slimdiff'
"""


@pytest.mark.parametrize('option, message', [
    ('optim_wrapper.optimizer.lr=-1', 'optim_wrapper cannot be built: Invalid learning rate: -1'),
    ('train_dataloader.num_workers=-1', 'dataloader cannot be built: num_workers'),
    ('model.unet.dropout=2', 'UNet cannot be built: dropout probability'),
    ('model.num_classes=-3', 'UNet cannot be built: Trying to create tensor with negative dimension'),
    ("model.data_preprocessor={'type': 'ImgDataPreprocessor', 'mean': [0]}", 'ImgDataPreprocessor cannot be built'),
    ('randomness.seed=-1', 'Seed must be between 0'),
    ('val_cfg=None', 'should be either all None or not None'),
    ('log_level=LOUD', "log_level: must be an integer or 'DEBUG' or 'INFO'"),
    ('val_cfg.num_images=0', 'num_images=0, batch_size=2 and num_real=None must be at least 1'),
    ('val_cfg.num_real=0', 'num_real=0 must be at least 1'),
    ('val_cfg.floor_splits=1', 'floor_splits=1: two or more'),
    ('auto_scale_lr.enable=True', 'set auto_scale_lr=dict(base_batch_size=...)'),
    ("param_scheduler=[{'type': 'LinearLR', 'by_epoch': False, 'start_factor': -1}]", 'param_scheduler cannot be'),
])
def test_train(option, message, tmp_path, capsys):
    (tmp_path / 'config.py').write_text(CONFIG)
    arguments = [str(tmp_path / 'config.py'), '--work-dir', str(tmp_path / 'out'), '--cfg-options', option]
    assert train.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_another_command(tmp_path, capsys):
    (tmp_path / 'config.py').write_text(CONFIG)
    assert get_flops.main([str(tmp_path / 'config.py'), '--cfg-options', 'model.num_classes=-3']) == 2
    assert 'UNet cannot be built' in capsys.readouterr().err
