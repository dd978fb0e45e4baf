"""NaN is stopped before it reaches the weights."""

import pytest
import tiny_run
import torch

from slimdiff.engine import NonFiniteError, NonFiniteGuardHook
from slimdiff.engine.hooks.nonfinite_guard import nonfinite_entries


def finite(runner):
    state = runner.optim_wrapper.optimizer.state_dict()['state']
    tensors = [*runner.unwrapped_model.state_dict().values(), *(t for s in state.values() for t in s.values())]
    return all(torch.isfinite(t).all() for t in tensors)


def test_nonfinite_entries():
    x = torch.zeros(4, 3)
    x[2, 1], x[3, 0] = float('nan'), float('inf')
    batch = dict(inputs=x, labels=torch.arange(4), other=[torch.ones(2)])
    assert nonfinite_entries(batch) == ['inputs (samples 2, 3 of 4)']


@pytest.mark.parametrize('clip', [dict(max_norm=1.0), None])
def test_nan_gradient(tmp_path, clip):
    runner = tiny_run.build(tmp_path, model__nan_at=6, optim_wrapper__clip_grad=clip)
    with pytest.raises(NonFiniteError, match=r'gradient of iteration 6 (.|\n)*batch is finite.*lower learning rate.*'
                       r'last good checkpoint is .*iter_4\.pth; go on from it with --resume'):
        runner.train()
    assert finite(runner) and sorted(p.name for p in tmp_path.glob('*.pth')) == ['iter_4.pth']
    tiny_run.build(tmp_path / 'other', max_iters=5, optim_wrapper__clip_grad=clip).train()
    other = torch.load(tmp_path / 'other/iter_5.pth', weights_only=True)
    tiny_run.same(dict(runner.unwrapped_model.state_dict()), other['state_dict'])  # as it was after iteration 5


def test_nan_in_the_batch_is_told_apart(tmp_path):
    runner = tiny_run.build(tmp_path, train_dataloader__dataset__nan_at=7, train_dataloader__sampler__shuffle=False)
    with pytest.raises(NonFiniteError, match=r'iteration 1 (.|\n)*input batch itself.*inputs \(samples 7 of 8\)(.|\n)*'
                       'no checkpoint yet'):
        runner.train()
    assert finite(runner)


def test_within_an_accumulation_window(tmp_path):
    runner = tiny_run.build(tmp_path, model__nan_at=2, optim_wrapper__accumulative_counts=4)
    with pytest.raises(NonFiniteError, match='loss of iteration 2'):
        runner.train()


def test_deferred_as_on_a_gpu(tmp_path, monkeypatch):
    """The optimizer skips the step by itself; the host learns of it one iteration later, and stops there."""
    monkeypatch.setattr(NonFiniteGuardHook, '_may_defer', lambda *_: True)
    runner = tiny_run.build(tmp_path, model__nan_gradient_at=6, optim_wrapper__clip_grad=None)
    with pytest.raises(NonFiniteError, match=r'gradient of iteration 6 '):
        runner.train()
    assert len(tiny_run.trace(tmp_path)) == 6
    tiny_run.build(tmp_path / 'other', max_iters=5, optim_wrapper__clip_grad=None).train()
    other = torch.load(tmp_path / 'other/iter_5.pth', weights_only=True)
    tiny_run.same(dict(runner.unwrapped_model.state_dict()), other['state_dict'])


def test_deferred_is_read_before_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(NonFiniteGuardHook, '_may_defer', lambda *_: True)
    with pytest.raises(NonFiniteError, match=r'gradient of iteration 8 .*(.|\n)*iter_4\.pth'):
        tiny_run.build(tmp_path, model__nan_gradient_at=8).train()
    assert [p.name for p in tmp_path.glob('*.pth')] == ['iter_4.pth']


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('wrapper', ['SlimOptimWrapper', 'Bf16OptimWrapper'])
def test_on_a_gpu(tmp_path, wrapper):
    runner = tiny_run.build(tmp_path, model__nan_gradient_at=6, optim_wrapper__type=wrapper)
    with pytest.raises(NonFiniteError, match=r'gradient of iteration 6 '):
        runner.train()
    assert finite(runner)
