import pytest
from mmengine.config import Config

from slimdiff.configuration import ConfigError, apply_overrides


@pytest.fixture
def cfg():
    return Config(dict(
        default_scope='slimdiff',
        model=dict(type='DiffusionModel', unet=dict(type='UNet', stages=[dict(channels=8), dict(channels=16)])),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3), clip_grad=None,
                           paramwise_cfg=dict(bias_lr_mult=2)),
        train_dataloader=dict(batch_size=4),
        val_cfg=dict(type='EvaluationLoop', sampling=dict(num_steps=2)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1), sample_grid=None),
        env_cfg=dict(cudnn_benchmark=False)))


def test_existing_keys_and_list_items(cfg):
    apply_overrides(cfg, {'optim_wrapper.optimizer.lr': 0.5, 'model.unet.stages.1.channels': 32})
    assert cfg.optim_wrapper.optimizer.lr == 0.5
    assert [stage.channels for stage in cfg.model.unet.stages] == [8, 32]
    assert cfg.model.unet.type == 'UNet'


def test_single_numbers_of_lists_and_tuples(cfg):
    cfg.optim_wrapper.optimizer.betas = (0.9, 0.999)
    cfg.numbers = [1, [2, 3], dict(of=[4, 5])]
    apply_overrides(cfg, {'optim_wrapper.optimizer.betas.1': 0.95, 'numbers.0': 7, 'numbers.1.1': 8,
                          'numbers.2.of.0': 9})
    assert cfg.optim_wrapper.optimizer.betas == (0.9, 0.95)
    assert cfg.numbers == [7, [2, 8], dict(of=[9, 5])]


@pytest.mark.parametrize('key, value', [
    ('optim_wrapper.optimizer.betas', [0.9, 0.99]),  # AdamW takes it
    ('model.unet.dropout', 0.1),
    ('model.num_steps', 5),
    ('train_dataloader.num_workers', 1),
    ('optim_wrapper.clip_grad.max_norm', 1.0),  # None becomes a dict
    ('optim_wrapper.type', 'AmpOptimWrapper'),
    ('randomness.seed', 3),  # the Runner takes it
    ('env_cfg.dist_cfg.backend', 'gloo'),
    ('optim_wrapper.paramwise_cfg.norm_decay_mult', 0),
    ('model.unet.stages.0.heads', 4),
    ('val_cfg.sampling.guidance_scale', 2.0),
    ('default_hooks.my_own.type', 'EmptyCacheHook'),
])
def test_new_keys_that_their_place_takes(cfg, key, value):
    apply_overrides(cfg, {key: value})
    node = cfg
    for part in key.split('.'):
        node = node[int(part) if part.isdigit() else part]
    assert node == value


def test_a_type_with_its_arguments(cfg):
    apply_overrides(cfg, {'optim_wrapper.optimizer.momentum': 0.9, 'optim_wrapper.optimizer.type': 'SGD'})
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=1e-3, momentum=0.9)
    with pytest.raises(ConfigError, match="no 'betas' in optim_wrapper.optimizer"):
        apply_overrides(cfg, {'optim_wrapper.optimizer.type': 'SGD', 'optim_wrapper.optimizer.betas': [0.9, 0.99]})


@pytest.mark.parametrize('key, message', [
    ('optim_wrapper.optimizer.lrr', r"no 'lrr' in optim_wrapper\.optimizer\. Did you mean 'lr'\?"),
    ('optim_wraper.optimizer.lr', r"no 'optim_wraper' in the top level of the config\. Did you mean 'optim_wrapper'\?"),
    ('model.unet.stages.1.chanels', r"no 'chanels' in model\.unet\.stages\.1\. Did you mean 'channels'\?"),
    ('model.unet.stages.2.channels', r'model\.unet\.stages is a list of 2.*index from 0 to 1'),
    ('model.unet.stages.first.channels', 'is a list of 2'),
    ('train_dataloader.batchsize', "Did you mean 'batch_size'"),
    ('train_dataloader.batch_size.x', r'train_dataloader\.batch_size is 4, it has no keys'),
    ('model.unet.stages.1.colour', r"no 'colour' in model\.unet\.stages\.1\."),
    ('val_cfg.sampling.steps', 'It may have: .*num_steps'),
    ('optim_wrapper.paramwise_cfg.bias_lr_mul', "Did you mean 'bias_lr_mult'"),
    ('model.unett.dropout', "Did you mean 'unet'"),
    ('env_cfg.cudnn_benchmrk', "Did you mean 'cudnn_benchmark'"),
    ('default_hooks.chekpoint.interval', "Did you mean 'checkpoint'"),
    ('default_hooks.samplegrid.interval', "Did you mean 'sample_grid'"),
    ('quite_new', "no 'quite_new' in the top level"),
])
def test_keys_without_effect_are_errors_and_change_nothing(cfg, key, message):
    before = cfg.to_dict()
    with pytest.raises(ConfigError, match=message):
        apply_overrides(cfg, {'optim_wrapper.optimizer.lr': 0.5, key: 1})
    assert cfg.to_dict() == before


def test_delete_replaces_a_dict(cfg):
    apply_overrides(cfg, {'optim_wrapper.optimizer._delete_': True, 'optim_wrapper.optimizer.type': 'SGD',
                          'optim_wrapper.optimizer.lr': 1})
    assert dict(cfg.optim_wrapper.optimizer) == dict(type='SGD', lr=1)
