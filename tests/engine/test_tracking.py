"""TensorBoard and W&B get the figures and pictures of the log, at their iterations."""

import json
import sys
import types

import numpy as np
import pytest
import tiny_run
from mmengine.config import Config
from PIL import Image

from slimdiff.engine.tracking import add_trackers
from slimdiff.optional import MissingPackageError

SAMPLES = {'default_hooks__samples': dict(type='SampleGridHook', interval=7, num_images=4), 'max_iters': 14}


def logged(folder):
    [file] = folder.glob('*/vis_data/*_*.json')
    return {line['step']: line for line in map(json.loads, file.read_text().splitlines())}


def tracked(*names):
    cfg = Config({})
    add_trackers(cfg, list(names))
    return cfg.visualizer


def test_tensorboard(tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    tiny_run.build(tmp_path, visualizer=tracked('tensorboard'), **SAMPLES).train()
    [file] = tmp_path.glob('*/vis_data/events.out.tfevents*')
    events = EventAccumulator(str(file))
    events.Reload()
    losses = {event.step: event.value for event in events.Scalars('train/loss')}
    assert losses == pytest.approx({step: line['train/loss'] for step, line in logged(tmp_path).items()}, rel=1e-6)
    assert sorted(losses) == [7, 14] == [event.step for event in events.Images('samples')]
    picture = Image.open(tmp_path / 'samples/iter_14.png')
    assert (events.Images('samples')[1].width, events.Images('samples')[1].height) == picture.size


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package, which collects what it is given."""
    module = types.ModuleType('wandb')
    module.__spec__ = types.SimpleNamespace(name='wandb')
    module.calls, module.started, module.finished = [], [], []
    module.config = types.SimpleNamespace(update=lambda values, **_: module.started.append(values))
    module.init = lambda **kwargs: module.started.append(kwargs)
    module.log = lambda values, step: module.calls.append((step, values))
    module.Image = np.asarray
    module.finish = lambda: module.finished.append(True)
    monkeypatch.setitem(sys.modules, 'wandb', module)
    return module


def test_wandb(tmp_path, wandb):
    tiny_run.build(tmp_path, visualizer=tracked('wandb'), **SAMPLES).train()
    assert wandb.started[1]['train_cfg']['max_iters'] == 14 and wandb.finished == [True]
    losses = {step: values['train/loss'] for step, values in wandb.calls if 'train/loss' in values}
    assert losses == {step: pytest.approx(line['train/loss']) for step, line in logged(tmp_path).items()}
    pictures = {step: values['samples'] for step, values in wandb.calls if 'samples' in values}
    assert np.array_equal(pictures[14], np.asarray(Image.open(tmp_path / 'samples/iter_14.png').convert('RGB')))
    assert sorted(pictures) == sorted(losses) == [7, 14]
    # A start that is refused makes no run there.
    wandb.started.clear()
    with pytest.raises(ValueError, match='already holds'):
        tiny_run.build(tmp_path, visualizer=tracked('wandb'), **SAMPLES).train()
    assert not wandb.started


def test_wandb_itself(tmp_path, monkeypatch):
    """The real package, without a network."""
    pytest.importorskip('wandb')
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('WANDB_SILENT', 'true')
    tiny_run.build(tmp_path, visualizer=tracked('wandb'), **SAMPLES).train()
    [file] = tmp_path.glob('*/vis_data/wandb/offline-run-*/*.wandb')
    assert b'train/loss' in file.read_bytes()
    assert len(list(tmp_path.glob('*/vis_data/wandb/offline-run-*/files/media/images/samples_*.png'))) == 2


@pytest.mark.parametrize('name, backend', [('tensorboard', 'TensorboardVisBackend'), ('wandb', 'WandbBackend'),
                                           ('wandb', 'WandbVisBackend')])
def test_a_missing_package_is_named_before_the_training(tmp_path, monkeypatch, name, backend):
    monkeypatch.setattr('slimdiff.optional.find_spec', lambda name: None)
    with pytest.raises(MissingPackageError, match=rf"{backend} needs the package '{name}'.*\[{name}\]"):
        tiny_run.build(tmp_path / 'run', visualizer=dict(type='Visualizer', vis_backends=[dict(type=backend)]))
    assert not (tmp_path / 'run').exists()


def test_the_flag_adds_to_what_the_config_has():
    from slimdiff.cli.train import parse, training_config
    base = ['sd/photo_patches_quick', '--track', 'wandb', '--track', 'tensorboard']
    cfg = training_config(parse(base))
    types = ['LocalVisBackend', 'WandbBackend', 'TensorboardVisBackend']
    assert [backend.type for backend in cfg.visualizer.vis_backends] == types
    add_trackers(cfg, ['wandb'])  # it has it
    assert [backend.type for backend in cfg.visualizer.vis_backends] == types
