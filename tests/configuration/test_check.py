import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS as MM_MODELS

from slimdiff.configuration import ConfigError, check_config, known, load_config
from slimdiff.configuration.known import runner_keys

# Pieces of legitimate configs, of slimdiff and as mmengine's documentation has them: none may raise.
LEGITIMATE = {
    'optimizer': "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.99), "
                 'weight_decay=0.01, fused=True), clip_grad=dict(max_norm=1, norm_type=2), accumulative_counts=2)',
    'optimizer without a type': "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))",
    'clip by value': "optim_wrapper = dict(optimizer=dict(type='SGD', lr=1), clip_grad=dict(type='value', "
                     'clip_value=0.2))',
    'amp': "optim_wrapper = dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale='dynamic', "
           "optimizer=dict(type='Adam', lr=1))",
    'paramwise': "optim_wrapper = dict(optimizer=dict(type='SGD', lr=1), paramwise_cfg=dict(norm_decay_mult=0, "
                 "custom_keys={'backbone': dict(lr_mult=0.1)}), constructor='DefaultOptimWrapperConstructor')",
    'two optimizers': "optim_wrapper = dict(constructor='MultiConstructor', a=dict(optimizer=dict(type='SGD', lr=1)), "
                      "b=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1)))",
    'zero optimizer': "optim_wrapper = dict(optimizer=dict(type='ZeroRedundancyOptimizer', optimizer_type='AdamW', "
                      'lr=1e-3, weight_decay=0.1))',
    'schedule': "param_scheduler = [dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=500), "
                "dict(type='CosineAnnealingLR', T_max=9, eta_min=0, by_epoch=True, begin=1, end=9, "
                'convert_to_iter_based=True)]',
    'schedule of one': "param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[3, 6], gamma=0.1)",
    'no schedule': 'param_scheduler = None',
    'schedules of two optimizers': "param_scheduler = dict(a=dict(type='ExponentialLR', gamma=0.9), b=[])",
    'epochs': 'train_cfg = dict(by_epoch=True, max_epochs=3, val_begin=1, val_interval=1)\nval_cfg = dict()',
    'iterations': "train_cfg = dict(type='IterBasedTrainLoop', max_iters=10, val_interval=5, "
                  'dynamic_intervals=[(8, 1)])\nval_cfg = dict(fp16=True)\ntest_cfg = None',
    'loader': "train_dataloader = dict(batch_size=4, num_workers=2, persistent_workers=True, pin_memory=True, "
              "drop_last=True, num_batch_per_epoch=3, "
              "sampler=dict(type='DefaultSampler', shuffle=True, round_up=False), "
              "collate_fn=dict(type='pseudo_collate'), "
              "dataset=dict(type='PhotoPatches', split='train', length=10))",
    'nested datasets': "val_dataloader = dict(batch_sampler=None, "
                       "sampler=dict(type='InfiniteSampler', seed=3), dataset=dict(type='RepeatDataset', times=2, "
                       "dataset=dict(type='ConcatDataset', datasets=[dict(type='PhotoPatches')])))",
    'default hooks': "default_hooks = dict(runtime_info=dict(type='RuntimeInfoHook'), "
                     "timer=dict(type='IterTimerHook'), "
                     "sampler_seed=dict(type='DistSamplerSeedHook'), logger=dict(type='LoggerHook', interval=10), "
                     "param_scheduler=None, my_own=dict(type='EmptyCacheHook', after_iter=True, priority='LOW'), "
                     "checkpoint=dict(type='mmengine.CheckpointHook', interval=1, save_best='auto', max_keep_ckpts=3, "
                     'by_epoch=False))',
    'custom hooks': "custom_hooks = [dict(type='mmengine.EMAHook', momentum=1e-3, update_buffers=True, priority=49), "
                    "dict(type='mmengine.EarlyStoppingHook', monitor='x', patience=3)]",
    'evaluator list': "val_evaluator = [dict(type='DumpResults', out_file_path='x.pkl')]",
    'evaluator': "test_evaluator = dict(type='Evaluator', metrics=[dict(type='DumpResults', out_file_path='x.pkl')])",
    'evaluator without a type': "test_evaluator = dict(metrics=dict(type='DumpResults', out_file_path='x.pkl'))",
    'visualizer': "visualizer = dict(type='Visualizer', name='v', vis_backends=[dict(type='LocalVisBackend'), "
                  "dict(type='TensorboardVisBackend', save_dir='x')])",
    'vis backends beside': "vis_backends = [dict(type='LocalVisBackend')]\nvisualizer = dict(type='Visualizer', "
                           'vis_backends=vis_backends)',
    'log': "log_processor = dict(by_epoch=False, window_size=50, custom_cfg=[dict(data_src='loss', "
           "method_name='mean', window_size='global')])\nlog_level = 'DEBUG'",
    'environment': "env_cfg = dict(cudnn_benchmark=True, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), "
                   "dist_cfg=dict(backend='gloo', timeout=60), resource_limit=4096)",
    'distributed': "model_wrapper_cfg = dict(type='MMDistributedDataParallel', find_unused_parameters=True, "
                   "broadcast_buffers=False)\nfind_unused_parameters = False\nsync_bn = 'torch'\nlauncher = 'pytorch'",
    'rest of the runner': "randomness = dict(seed=3, deterministic=True, diff_rank_seed=False)\nresume = True\n"
                          "load_from = 'x.pth'\nwork_dir = 'w'\nexperiment_name = 'e'\ndefault_scope = 'slimdiff'\n"
                          "auto_scale_lr = dict(enable=False, base_batch_size=16)\ncompile = dict(backend='inductor')",
    'transforms': "train_dataloader = dict(dataset=dict(type='RepeatDataset', times=1, dataset=dict("
                  "type='ConcatDataset', datasets=[])))\ntrain_pipeline = [dict(type='LoadImageFromFile', "
                  "imdecode_backend='pillow'), dict(type='RandomResize', scale=(9, 9), ratio_range=(0.5, 2), "
                  "keep_ratio=True), dict(type='RandomChoice', transforms=[[dict(type='CenterCrop', crop_size=3)]], "
                  "prob=[1.0]), dict(type='TransformBroadcaster', mapping=dict(img=['a', 'b']), "
                  "auto_remap=True, transforms=[dict(type='RandomFlip', prob=0.5)])]",
    'helpers': "data_root = 'data'\ndataset_type = 'ImageFolder'\nnorm_cfg = dict(type='BN', requires_grad=True)\n"
               "act = dict(type='ReLU', inplace=True)\nimage_size = 32\ntrain_dataset = dict(type='PhotoPatches')",
    'diffusion': "model = dict(type='DiffusionModel', unet=dict(type='UNet', sample_size=32, stages=[dict(channels=32, "
                 "blocks=1)]), noise_scheduler=dict(type='DDPMScheduler', beta_schedule='scaled_linear', "
                 "beta_start=0.0015), sampler=dict(type='DPMSolverMultistepScheduler', use_karras_sigmas=True), "
                 "num_classes=3, init_cfg=dict(type='Pretrained', checkpoint='x.pth'))",
    'preprocessor': "data_preprocessor = dict(type='ImgDataPreprocessor', mean=[0, 0, 0], std=[1, 1, 1], "
                    'bgr_to_rgb=True)',
    'a path to import': "model = dict(type='torch.nn.Identity')",
    'average model': "custom_hooks = [dict(type='mmengine.EMAHook', ema_type='ExponentialMovingAverage', gamma=100)]",
    'free data of a class': "model = dict(type='BaseTTAModel', module=dict(type='UNet'))\n"
                            "meta = dict(type='experiment', tags=['a'])",
}


def config_of(text, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(text + '\n')
    return load_config(path)


@pytest.mark.parametrize('name', LEGITIMATE)
def test_no_false_alarm(name, tmp_path):
    check_config(config_of(LEGITIMATE[name], tmp_path))


WRONG = [
    ("modle = dict(type='UNet')", 'config.py:1: modle: the Runner knows no key .*mean .model'),
    ("model = dict(type='DifusionModel')", r"model\.type: there is no model 'DifusionModel'.*mean 'DiffusionModel'"),
    ("\nmodel = dict(\n    type='DiffusionModel',\n    num_step=3)",
     r"config.py:4: model\.num_step: DiffusionModel takes no argument 'num_step'.*mean 'num_steps'.*takes: .*sampler"),
    ("model = dict(type='DiffusionModel', unet=dict(type='UNet', downsampler=dict(type='WaveletGateDown')))",
     r"model\.unet\.downsampler\.type: there is no resampler 'WaveletGateDown'.*Known: .*ConvDown"),
    ("model = dict(type='DiffusionModel', unet=dict(type='UNet', downsampler=dict(type='WaveletDown', wavelett=1)))",
     r"model\.unet\.downsampler\.wavelett: WaveletDown takes no.*mean 'wavelet'"),
    ("model = dict(type='DiffusionModel', noise_scheduler=dict(type='DDMPScheduler'))", "mean 'DDPMScheduler'"),
    ("model = dict(type='DiffusionModel', sampler=dict(type='AdamW'))", "there is no scheduler 'AdamW'"),
    ("model = dict(type='DiffusionModel', noise_scheduler=dict(type='DDPMScheduler', beta_strat=1))",
     "mean 'beta_start'"),
    ("model = dict(type='DiffusionModel', unet=dict(type='UNet', stages=[dict(channels=3), dict(chanels=3)]))",
     r"model\.unet\.stages\.1\.chanels: A stage takes no argument 'chanels'.*mean 'channels'"),
    ("val_cfg = dict(type='EvaluationLoop', sampling=dict(num_step=3))", "sampling takes no .*mean 'num_steps'"),
    ("optim_wrapper = dict(optimizer=dict(type='AdmW', lr=1))", "no optimizer 'AdmW'.*mean 'AdamW'"),
    ("optim_wrapper = dict(optimizer=dict(type='AdamW', l_r=1))", "AdamW takes no argument 'l_r'.*mean 'lr'"),
    ("optim_wrapper = dict(optimizer=dict(type='AdamW'), clip_grads=None)", "OptimWrapper takes.*mean 'clip_grad'"),
    ("param_scheduler = [dict(type='LinearLR'), dict(type='CosineAnealingLR')]",
     r"param_scheduler\.1\.type: .*mean 'CosineAnnealingLR'"),
    ("param_scheduler = [dict(type='LinearLR', strat_factor=1)]", "mean 'start_factor'"),
    ('train_cfg = dict(by_epoch=False, max_iter=3)', r"train_cfg\.max_iter: .*mean 'max_iters'"),
    ("train_cfg = dict(type='IterBasedTrainLop')", "no loop 'IterBasedTrainLop'.*mean 'IterBasedTrainLoop'"),
    ('train_dataloader = dict(batch_sise=3)', r"train_dataloader\.batch_sise: .*mean 'batch_size'"),
    ("val_dataloader = dict(dataset=dict(type='PhotoPatchs'))", "no dataset 'PhotoPatchs'.*mean 'PhotoPatches'"),
    ("val_dataloader = dict(dataset=dict(type='PhotoPatches', lenght=3))", "mean 'length'"),
    ("val_dataloader = dict(sampler=dict(type='DefaultSampler', shufle=3))", "mean 'shuffle'"),
    ("val_dataloader = dict(collate_fn=dict(type='default_colate'))", "no function .*mean 'default_collate'"),
    ("default_hooks = dict(chekpoint=dict(type='CheckpointHook'))", r"default_hooks\.chekpoint: .*mean 'checkpoint'"),
    ("default_hooks = dict(checkpoint=dict(type='CheckpointHook', intervall=1))", "mean 'interval'"),
    ("default_hooks = dict(checkpoint=dict(type='mmengine.CheckpointHook', intervall=1))", "mean 'interval'"),
    ("default_hooks = dict(ema=dict(type='EMAHook', momentum=1e-3))", 'EMAHook takes no .*It takes: decay'),
    ("default_hooks = dict(checkpoint=dict(type='CheckpontHook'))", "no hook .*mean 'CheckpointHook'"),
    ("custom_hooks = [dict(type='DDIMScheduler')]", r'no hook .DDIMScheduler.*There is a scheduler of this name'),
    ("custom_hooks = [dict(type=3)]", "'type' must be a name or a class, got 3"),
    ("val_evaluator = [dict(type='RadialSpectrumDistanc')]",
     r"val_evaluator\.0\.type: .*mean 'RadialSpectrumDistance'"),
    ("visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackEnds')])", "mean 'LocalVisBackend'"),
    ('default_hooks = dict(saving=dict(interval=3))',
     r"default_hooks\.saving: needs a 'type', got only the keys interval"),
    ("default_hooks = dict(samples=dict(type='SampleGridHook'), sampels=dict(interval=3))",
     r"default_hooks\.sampels: needs a 'type'.*mean 'samples'"),
    ('log_processor = dict(window_sise=3)', "mean 'window_size'"),
    ('env_cfg = dict(cudn_benchmark=True)', "mean 'cudnn_benchmark'"),
    ('randomness = dict(sed=1)', "mean 'seed'"),
    ("train_pipeline = [dict(type='CenterCorp', crop_size=3)]", "no registry holds 'CenterCorp'.*mean 'CenterCrop'"),
]


@pytest.mark.parametrize('text, message', WRONG)
def test_wrong_names(text, message, tmp_path):
    with pytest.raises(ConfigError) as caught:
        check_config(config_of(text, tmp_path))
    assert re.search(message, str(caught.value)), str(caught.value)
    assert len(caught.value.problems) == 1, str(caught.value)
    assert 'config.py' in str(caught.value)


def test_all_problems_are_reported_with_the_file_of_each(tmp_path):
    (tmp_path / 'base.py').write_text("param_scheduler = dict(type='LinearLR',\n    strat_factor=1)\n")
    (tmp_path / 'mine.py').write_text("_base_ = './base.py'\n\nrandomness = dict(sed=1)\n")
    with pytest.raises(ConfigError) as caught:
        check_config(load_config(tmp_path / 'mine.py'))
    first, second = sorted(caught.value.problems)
    assert Path(first.split(':')[0]).name == 'base.py' and ':2: param_scheduler.strat_factor' in first
    assert Path(second.split(':')[0]).name == 'mine.py' and ':3: randomness.sed' in second
    assert str(caught.value).startswith('2 problems in ')


def test_a_helper_used_elsewhere_is_reported_where_it_is_used(tmp_path):
    text = "opt = dict(type='AdmW')\noptim_wrapper = dict(optimizer=opt)"
    with pytest.raises(ConfigError, match=r'optim_wrapper\.optimizer\.type'):
        check_config(config_of(text, tmp_path))


def test_a_plain_dict_and_a_class_as_type():
    check_config(dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=1))))
    with pytest.raises(ConfigError, match="config: model.chanels: Net takes no argument 'chanels'"):
        check_config(Config(dict(model=dict(type=Net, chanels=1))))


class Net:

    def __init__(self, channels, sampler=None):
        self.channels = channels


def test_classes_that_a_user_registered(tmp_path):
    MM_MODELS.register_module(name='NetOfATest', module=Net)
    try:
        check_config(dict(model=dict(type='NetOfATest', channels=1, sampler=dict(type='my own thing'))))
        with pytest.raises(ConfigError, match="'chanels'"):
            check_config(dict(model=dict(type='NetOfATest', chanels=1)))
    finally:
        MM_MODELS.module_dict.pop('NetOfATest')


def test_the_runner_keys_are_mmengine_s():
    keys = set(runner_keys())
    assert {'model', 'train_dataloader', 'val_cfg', 'env_cfg', 'model_wrapper_cfg', 'compile'} <= keys
    assert not keys & {'self', 'cfg'}


def test_a_scope_that_is_no_package_here():
    with pytest.raises(ConfigError, match="no package 'mmdet_of_tomorrow' here"):
        check_config(Config(dict(default_scope='mmdet_of_tomorrow', model=dict(type='DiffusionModel'))))


def test_the_keys_of_the_runner_are_known_without_importing_it(tmp_path):
    """A misspelt key is answered before PyTorch is imported."""
    assert known.runner_key_names() == known.runner_keys().keys()
    (tmp_path / 'config.py').write_text("train_cfgg = dict(type='IterTrainLoop', max_iters=3)\n")
    code = ('import sys\nfrom slimdiff.cli.train import main\n'
            "status = main(['config.py'])\n"
            "print(status, sorted({'torch', 'diffusers', 'mmengine.runner'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == '2 []', done.stdout + done.stderr
    assert "Did you mean 'train_cfg'?" in done.stderr


def test_so_they_are_on_the_command_line(tmp_path):
    (tmp_path / 'config.py').write_text("train_cfg = dict(type='IterTrainLoop', max_iters=3)\n")
    code = ('import sys\nfrom slimdiff.cli.train import main\n'
            "status = main(['config.py', '--cfg-options', 'train_cgf.max_iters=3'])\n"
            "print(status, sorted({'torch', 'diffusers', 'mmengine.runner'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == '2 []', done.stdout + done.stderr
    assert "there is no 'train_cgf' in the top level of the config. Did you mean 'train_cfg'?" in done.stderr


def test_an_8_bit_optimizer_without_its_package(monkeypatch):
    monkeypatch.setattr('slimdiff.configuration.check.find_spec', lambda name: None)
    with pytest.raises(ConfigError, match=r"Any8bit needs the package 'bitsandbytes'.*\[bitsandbytes\]"):
        check_config(dict(optim_wrapper=dict(optimizer=dict(type='Any8bit', lr=1e-3))))
