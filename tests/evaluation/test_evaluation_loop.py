import json
import re

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from slimdiff.evaluation.loop import EvaluationLoop


class Noise(Dataset):

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return dict(inputs=0.3 * torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(index)).clamp(-1, 1))


class Model(BaseModel):
    """Samples white noise of the learned amplitude."""

    def __init__(self):
        super().__init__()
        self.amplitude = nn.Parameter(torch.tensor(0.5))
        self.frozen = nn.Dropout().eval()
        self.sampled_in = []

    def forward(self, inputs, mode='loss'):
        return dict(loss=(inputs.std() - self.amplitude)**2)

    def sample(self, indices, seed, on_step=None, num_steps=None):
        self.sampled_in.append((self.training, num_steps))
        generators = [torch.Generator().manual_seed(seed + i + 99) for i in indices]
        return torch.stack([self.amplitude * torch.randn(3, 8, 8, generator=g) for g in generators]).clamp(-1, 1)


class Recorder(Hook):

    def __init__(self):
        self.events = []

    def before_val(self, runner):
        self.events.append('before_val')

    def before_val_epoch(self, runner):
        self.events.append('before_val_epoch')

    def after_val_epoch(self, runner, metrics=None):
        self.events.append(('after_val_epoch', metrics))

    def after_val(self, runner):
        self.events.append('after_val')

    def before_test_epoch(self, runner):
        self.events.append('before_test_epoch')

    def after_test_epoch(self, runner, metrics=None):
        self.events.append(('after_test_epoch', metrics))


@pytest.fixture
def runner(tmp_path):
    loop = dict(type=EvaluationLoop, num_images=20, batch_size=8, seed=1, sampling=dict(num_steps=2), progress=False)
    data = dict(batch_size=8, dataset=Noise(), sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='default_collate'))
    evaluator = [dict(type='RadialSpectrumDistance')]
    return Runner(
        Model(), str(tmp_path), train_dataloader=data, train_cfg=dict(by_epoch=False, max_iters=4, val_interval=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)), val_dataloader=data, val_cfg=dict(loop),
        val_evaluator=evaluator, test_dataloader=data, test_cfg=dict(loop, floor_splits=2), test_evaluator=evaluator,
        custom_hooks=[Recorder()], default_hooks=dict(checkpoint=None), experiment_name=tmp_path.name,
        log_processor=dict(by_epoch=False))


def recorder(runner):
    return next(hook for hook in runner.hooks if isinstance(hook, Recorder))


def test_validation_during_training_logs_and_restores_the_mode(runner, tmp_path):
    runner.train()
    events = recorder(runner).events
    assert [e if isinstance(e, str) else e[0] for e in events] == [
        'before_val', 'before_val_epoch', 'after_val_epoch', 'after_val'] * 2
    figures = events[-2][1]
    assert figures['spectrum/power/whole_signed'] > 0
    # 20 images in batches of 8 make three calls for each validation, in evaluation mode.
    assert runner.model.sampled_in == [(False, 2)] * 6
    assert runner.val_loop.metrics[0].count(True) == 24
    log = next(tmp_path.rglob('*.log')).read_text()
    logged = re.findall(r'Iter\(val\).*spectrum/power/whole_signed: ([\d.]+)', log)
    assert len(logged) == 2 and float(logged[1]) == pytest.approx(figures['spectrum/power/whole_signed'], abs=1e-3)
    scalars = [json.loads(line) for line in next(tmp_path.rglob('scalars.json')).read_text().splitlines()]
    assert sum('spectrum/power/whole' in line for line in scalars) == 2


def test_test_calls_the_test_hooks_and_measures_the_floor(runner):
    runner.model.train()
    runner.model.frozen.eval()
    figures = runner.test()
    assert [e if isinstance(e, str) else e[0] for e in recorder(runner).events] == [
        'before_test_epoch', 'after_test_epoch']
    assert figures['floor/spectrum/power/whole'] < figures['spectrum/power/whole']
    assert figures['floor/spectrum/power/whole_std'] >= 0
    assert runner.model.training and not runner.model.frozen.training


def test_a_misspelt_metric_fails_when_the_loop_is_built(runner):
    with pytest.raises(ValueError, match="Did you mean 'RadialSpectrumDistance'"):
        EvaluationLoop(runner, runner._val_dataloader, [dict(type='RadialSpectrumDistanc')])
