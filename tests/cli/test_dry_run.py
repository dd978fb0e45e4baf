"""--dry-run: real iterations on random data, whatever is not on this machine."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config

from slimdiff.cli.dry_run import duration, short_run, without_files
from slimdiff.configuration import load_config

CONFIGS = Path(__file__).parents[2] / 'configs'


@pytest.mark.parametrize('seconds, text', [(5.4, '5 s'), (65, '1 min 5 s'), (7260, '2 h 1 min'), (270_000, '3 d 3 h')])
def test_durations_by_hand(seconds, text):
    assert duration(seconds) == text


def test_everything_that_trains_is_kept(tmp_path):
    cfg = load_config('configs/sd/imagenet_ldm-layout.py')
    small = short_run(cfg.copy(), str(tmp_path))
    for key in ('model', 'optim_wrapper', 'param_scheduler'):
        assert small[key] == cfg[key], key
    assert small.train_dataloader.batch_size == cfg.train_dataloader.batch_size == 32
    assert small.train_dataloader.dataset == dict(type='RandomSamples', key='latents', shape=[],
                                                  num_classes=1000, captions=False)
    assert small.train_cfg.max_iters == 3 and 'val_cfg' not in small
    assert small.default_hooks.ema == cfg.default_hooks.ema
    cfg.optim_wrapper.accumulative_counts = 4
    assert short_run(cfg, str(tmp_path)).train_cfg.max_iters == 12


def test_a_first_stage_asks_for_no_file():
    model = dict(autoencoder=dict(type='KLAutoencoder', checkpoint='checkpoints/x/y', latent_scale=None))
    assert without_files(model)['autoencoder'] == dict(type='KLAutoencoder', checkpoint=None, latent_scale=1.0)
    assert without_files(dict(autoencoder=dict(type='IdentityAutoencoder'))) == dict(
        autoencoder=dict(type='IdentityAutoencoder'))


def tiny_text_config(folder):
    """A student and a teacher, both of latents and text, none of whose files is there."""
    stages = [dict(channels=8, blocks=1), dict(channels=8, blocks=1, heads=2, cross_attention=True)]
    network = dict(type='UNet', sample_size=8, in_channels=4, out_channels=4, norm_groups=4, stages=stages)
    model = dict(autoencoder=dict(type='KLAutoencoder', checkpoint='checkpoints/first_stages/none', latent_scale=None))
    text = dict(type='CLIPText', checkpoint='/nowhere/clip', channels=6)
    theirs = dict(type='LDMBertText', checkpoint='/nowhere/bert', channels=10)
    teacher = Config(dict(model=dict(type='DiffusionModel', unet=dict(network, context_channels=10), conditioner=theirs,
                                     **model)))
    teacher.dump(folder / 'teacher.py')
    student = Config(dict(
        default_scope='slimdiff', runner_type='SlimRunner',
        model=dict(type='Distiller', unet=dict(network, context_channels=6), conditioner=text, **model,
                   teacher=dict(checkpoint='/nowhere/teacher', config=str(folder / 'teacher.py'), conditioner=theirs),
                   losses=[dict(type='SpatialLoss', tap=['output', 'up1'])]),
        train_dataloader=dict(batch_size=2, num_workers=0, dataset=dict(type='ImageFolder', data_root='/nowhere'),
                              sampler=dict(type='ResumableSampler', shuffle=True),
                              collate_fn=dict(type='default_collate')),
        train_cfg=dict(type='IterTrainLoop', max_iters=7200),
        optim_wrapper=dict(type='SlimOptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))))
    student.dump(folder / 'student.py')
    return folder / 'student.py'


def test_nothing_need_be_there(run_tool, tmp_path):
    done = run_tool('train.py', tiny_text_config(tmp_path), '--work-dir', tmp_path / 'run', '--dry-run')
    assert 'training 3 iterations of batch 2 on random data ...' in done.stderr
    found = done.stdout
    lines = dict(re.findall(r'^(\S.*?)  +(.*)$', found, re.MULTILINE))
    assert re.search(r'stands in +teacher: random weights for /nowhere/teacher', found)
    assert re.search(r'stands in +text encoder: random context for /nowhere/clip', found)
    assert re.search(r"stands in +the teacher's text encoder: random context for /nowhere/bert", found)
    assert lines['batch'] == '2 on each of 1: 2 images an iteration'
    rate = float(re.match(r'3, ([\d.e+]+) it/s', lines['iterations'])[1])
    told = re.match(r'7,200 iterations would take (?:(\d+) h )?(?:(\d+) min ?)?(?:(\d+) s)? on this', lines[
        'whole schedule'])
    total = sum(int(part or 0) * size for part, size in zip(told.groups(), (3600, 60, 1)))
    assert total == pytest.approx(7200 / rate, rel=0.05, abs=60)
    assert 'MACs' in lines['network'] and 'MACs' in lines['teacher'] and 'GiB of this process' in lines['peak memory']
    assert not (tmp_path / 'run').exists()


def test_a_teacher_of_which_nothing_is_known(run_tool, tmp_path):
    path = tiny_text_config(tmp_path)
    found = run_tool('train.py', path, '--dry-run', '--cfg-options', 'model.teacher.config=None', status=2)
    assert "doesn't say what network it is" in found.stderr


def test_without_a_dry_run_a_missing_teacher_says_how_to_get_it(run_tool, tmp_path):
    found = run_tool('train.py', tiny_text_config(tmp_path), '--work-dir', tmp_path / 'run', status=2)
    assert 'slimdiff convert CHECKPOINT.ckpt --config' in found.stderr and 'bring_your_checkpoint.md' in found.stderr
    assert not (tmp_path / 'run').exists()


@pytest.mark.slow
@pytest.mark.parametrize('path', sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob('*.py')
                                        if '_base_' not in p.parts))
def test_every_shipped_config_at_batch_1(run_tool, path):
    """Up to 20 GB of memory, and minutes, for the text teacher."""
    found = run_tool('train.py', CONFIGS / path, '--dry-run', '--cfg-options', 'train_dataloader.batch_size=1',
                     timeout=3600).stdout
    assert 'iterations would take' in found and re.search(r'iterations +3, ', found)
