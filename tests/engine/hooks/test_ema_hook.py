"""EMA against its closed form."""

import pytest
import tiny_run
import torch
from torch import nn

from slimdiff.checkpoint.files import load_checkpoint
from slimdiff.engine.hooks.ema import EMAHook, ema_decay, ema_update, find_ema


def test_decay_warm_up():
    assert ema_decay(0, 0.999) == 0.1 and ema_decay(90, 0.999) == 0.91 and ema_decay(10**6, 0.999) == 0.999


def test_update_against_the_closed_form():
    values = [torch.randn(3, 4, dtype=torch.float64) for _ in range(30)]
    average = [values[0].clone()]
    for value in values[1:]:
        ema_update(average, [value], 0.9)
    expected = 0.9**29 * values[0] + sum(0.1 * 0.9**(29 - i) * values[i] for i in range(1, 30))
    torch.testing.assert_close(average[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('window', [1, 2])
def test_run_against_a_hand_made_loop(tmp_path, window):
    runner = tiny_run.build(tmp_path, max_iters=8, custom_hooks=[dict(type='CollectWeights')],
                            optim_wrapper__accumulative_counts=window)
    weights = runner.hooks[[type(h).__name__ for h in runner.hooks].index('CollectWeights')].weights
    runner.train()
    average = weights[0].double()
    assert len(weights) == 9
    for i, value in enumerate(weights[window::window]):  # one average for each step of the optimizer
        decay = min(0.9, (1 + i) / (10 + i))
        average = decay * average + (1 - decay) * value.double()
    saved = load_checkpoint(tmp_path / 'iter_8.pth')['ema']['state_dict']
    torch.testing.assert_close(saved['unet.0.weight'].double(), average, rtol=1e-6, atol=1e-7)
    assert 'frozen.weight' not in saved and 'unet.1.running_mean' in saved


def test_swap_is_an_exchange():
    model = nn.Linear(2, 2)
    hook = EMAHook(0.5)
    hook._collect(model)
    with torch.no_grad():
        model.weight.add_(1)
    trained, averaged = model.weight.detach().clone(), hook.averages[0].clone()
    with hook.averaged(), hook.averaged():
        assert torch.equal(model.weight, averaged)
    assert torch.equal(model.weight, trained) and torch.equal(hook.averages[0], averaged)
    with pytest.raises(RuntimeError), hook.averaged():
        raise RuntimeError
    assert torch.equal(model.weight, trained)


def test_float_buffers_are_copied():
    model = nn.BatchNorm2d(2)
    hook = EMAHook(0.9)
    hook._collect(model)
    model.running_mean.fill_(3)
    model.num_batches_tracked.fill_(7)
    hook.after_train_iter(None, 0)
    assert [b.flatten()[0].item() for b in hook.buffers] == [3, 1, 7]


def test_find_and_arguments(tmp_path):
    assert find_ema(tiny_run.build(tmp_path)).decay == 0.9
    assert find_ema(tiny_run.build(tmp_path, default_hooks__ema=None)) is None
    with pytest.raises(ValueError, match=r'decay must lie in \[0, 1\), got 1'):
        EMAHook(1)
