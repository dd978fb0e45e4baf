"""The training loop: when it validates, what it seeds."""

import random

import numpy as np
import pytest
import tiny_run
import torch

from slimdiff.engine.loops import seed_iteration


def with_validation(**changes):
    return dict(val_cfg=dict(type='TinyEvaluation'), val_evaluator=[],
                val_dataloader=tiny_run.tiny_config('x').train_dataloader, **changes)


def test_seed_iteration_is_a_function_of_seed_iteration_and_rank():
    def draw(*key):
        seed_iteration(*key)
        return torch.rand(2).tolist(), np.random.rand(), random.random()

    assert draw(0, 5, 1) == draw(0, 5, 1)
    assert len({str(draw(*key)) for key in [(0, 5, 1), (1, 5, 1), (0, 6, 1), (0, 5, 0)]}) == 4


def test_validation_times(tmp_path):
    runner = tiny_run.build(tmp_path, max_iters=11, **with_validation(
        train_cfg__val_interval=4, train_cfg__val_begin=5, train_cfg__val_before_train=True))
    runner.train()
    assert runner.val_loop.iterations == [0, 8, 11]


def test_validation_does_not_change_training(tmp_path):
    tiny_run.build(tmp_path / 'a', max_iters=9).train()
    tiny_run.build(tmp_path / 'b', max_iters=9, **with_validation(train_cfg__val_interval=2)).train()
    assert tiny_run.trace(tmp_path / 'a') == tiny_run.trace(tmp_path / 'b')


def test_missed_validation_is_made_up_for(tmp_path):
    """The checkpoint of an iteration is written before its validation."""
    tiny_run.build(tmp_path, max_iters=8).train()
    runner = tiny_run.build(tmp_path, max_iters=8, resume=True, **with_validation(train_cfg__val_interval=4))
    runner.train()
    assert runner.val_loop.iterations == [8]


@pytest.mark.parametrize('key', ['max_iters', 'val_interval'])
def test_intervals_are_checked(tmp_path, key):
    with pytest.raises(ValueError, match=rf'train_cfg\.{key} must be an integer of at least 1, got 0'):
        tiny_run.build(tmp_path, **{f'train_cfg__{key}': 0}).train()


def test_misspelt_hook_and_loop(tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'EMAHook'"):
        tiny_run.build(tmp_path, default_hooks__ema__type='EMAHok')
    with pytest.raises(ValueError, match="no argument 'max_iter'.*Did you mean 'max_iters'"):
        tiny_run.build(tmp_path, train_cfg__max_iter=3).train()
