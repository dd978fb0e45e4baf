"""Guidance away from a null class that was never trained is refused before anything is sampled, in every command."""

import math

import pytest
import torch
from torch.utils.data import DataLoader

from slimdiff.arguments import plain
from slimdiff.checkpoint import save_checkpoint
from slimdiff.cli import export, sample, search, test, train
from slimdiff.configuration import load_config
from slimdiff.datasets import RandomSamples
from slimdiff.engine.run_state import files
from slimdiff.evaluation import evaluate
from slimdiff.models.distillation import Teacher
from slimdiff.registry import MODELS

UNET = dict(type='SlimmableUNet', widths=(0.5, 1.0), sample_size=8, norm_groups=2,
            stages=[dict(channels=8, blocks=1, downsample=False)])
CONFIG = f"""
model = dict(type='DiffusionModel', num_classes=3, num_steps=2, class_dropout=0.0, unet={UNET!r})
train_dataloader = dict(batch_size=2, sampler=dict(type='ResumableSampler'),
                        dataset=dict(type='RandomSamples', shape=(3, 8, 8), num_classes=3))
val_dataloader = dict(batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False),
                      dataset=dict(type='RandomSamples', shape=(3, 8, 8), num_classes=3, length=4))
test_dataloader = val_dataloader
val_evaluator = dict(type='FrechetDistance')
test_evaluator = val_evaluator
val_cfg = dict(type='EvaluationLoop', num_images=2, batch_size=2)
test_cfg = val_cfg
train_cfg = dict(type='IterTrainLoop', max_iters=1)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4))
default_scope = 'slimdiff'
search = dict(evaluators=[dict(type='DivergenceEvaluator', num_images=1)],
              searcher=dict(type='RandomSearch', num_candidates=1))
"""
MESSAGE = 'guidance_scale=3: guidance leads away from the null class (of a text model, the empty caption), which ' \
          'class_dropout=0 never trained.'


@pytest.fixture
def made(tmp_path):
    """A config and a checkpoint, neither with a null class."""
    config, checkpoint = tmp_path / 'config.py', tmp_path / 'iter_1.pth'
    config.write_text(CONFIG)
    cfg = load_config(str(config))
    state = MODELS.build(cfg.model).state_dict()
    meta = dict(format=files.FORMAT, format_version=2, config=dict(model=plain(cfg.model)))
    save_checkpoint(dict(meta=meta, state_dict=state, ema=dict(state_dict=state)), checkpoint)
    return str(config), str(checkpoint)


@pytest.mark.parametrize('trained_in_config', [False, True])
def test_every_command(made, tmp_path, capsys, trained_in_config, monkeypatch):
    """What the weights were trained with counts, not what the config says."""
    config, checkpoint = made
    dropout = ['model.class_dropout=0.1'] if trained_in_config else []
    out, guided = str(tmp_path / 'out'), ['--cfg-options', 'model.guidance_scale=3.0', *dropout]
    options = ['--cfg-options', *dropout] if dropout else []
    commands = [
        (sample, [config, checkpoint, '--out', out, '--guidance', '3', *options]),
        (sample, [config, checkpoint, '--out', out, *guided]),
        (test, [config, checkpoint, '--work-dir', out, '--guidance', '3', *options]),
        (test, [config, checkpoint, '--work-dir', out, *guided]),
        (search, [config, checkpoint, '--work-dir', out, *guided]),
    ]
    if not dropout:
        commands += [(train, [config, '--work-dir', out, *guided]),
                     (train, [config, '--work-dir', out, '--cfg-options', 'val_cfg.sampling.guidance_scale=3.0'])]
    for command, arguments in commands:
        assert command.main(arguments) == 2, (command, arguments)
        assert MESSAGE in capsys.readouterr().err
        assert not list(tmp_path.glob('out/*.png')) and not list(tmp_path.glob('out/*.pth'))
    assert sample.main([config, checkpoint, '--out', out, '-n', '1', '--labels', 'none', *options]) == 2
    assert 'Label 3 is the null class, which class_dropout=0 never trained' in capsys.readouterr().err
    assert sample.main([config, checkpoint, '--out', f'{out}1', '-n', '1', '--guidance', '1', *guided]) == 0


def test_an_exported_pipeline(made, tmp_path, capsys):
    from diffusers import DiffusionPipeline
    config, checkpoint = made
    out = str(tmp_path / 'exported')
    assert export.main([config, checkpoint, out]) == 0
    pipe = DiffusionPipeline.from_pretrained(out)
    pipe.set_progress_bar_config(disable=True)
    assert len(pipe(labels=[0, 2]).images) == 2
    for arguments, message in ((dict(labels=[1], guidance_scale=3.), 'guidance_scale=3: guidance leads away'),
                               (dict(), 'labels: give them, from 0..2'),
                               (dict(labels=[3]), 'null class was not trained')):
        with pytest.raises(ValueError, match=message):
            pipe(**arguments)
    assert sample.main([config, out, '--out', str(tmp_path / 'a'), '--guidance', '3', '--cfg-options',
                        'model.class_dropout=0.1']) == 2
    assert MESSAGE in capsys.readouterr().err


def test_python(made):
    model = MODELS.build(load_config(made[0]).model)
    with pytest.raises(ValueError, match='never trained'):
        model.sample([0], guidance_scale=3)
    loader = DataLoader(RandomSamples((3, 8, 8), num_classes=3, length=4))
    with pytest.raises(ValueError, match='never trained'):
        evaluate(model, loader, [dict(type='FrechetDistance')], sampling=dict(guidance_scale=3.))
    model.class_dropout = 0.1
    for scale in (math.nan, math.inf):
        with pytest.raises(ValueError, match='guidance_scale must be a number'):
            model.sample([0], guidance_scale=scale)
    assert model.sample([0], guidance_scale=1).shape == (1, 3, 8, 8)
    plain_model = MODELS.build(dict(type='DiffusionModel', unet=UNET, class_dropout=0.0, num_steps=2))
    assert torch.isfinite(plain_model.sample([0], guidance_scale=3)).all()  # nothing to guide by


def test_a_teacher_without_a_null_class_does_not_teach_it(made):
    teacher = Teacher(made[1])
    student = dict(type='DiffusionModel', unet=UNET, num_classes=3)
    teacher.check_fits(MODELS.build({**student, 'class_dropout': 0.0}))
    with pytest.raises(ValueError, match='differ in classes: teacher 3 .*also class_dropout=0'):
        teacher.check_fits(MODELS.build({**student, 'class_dropout': 0.1}))
