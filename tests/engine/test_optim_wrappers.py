"""bf16 autocast, clipping, accumulation."""

import pytest
import tiny_run
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from slimdiff.engine import Bf16OptimWrapper, SlimOptimWrapper


def make(cls, **kwargs):
    torch.manual_seed(0)
    model = nn.Linear(6, 5)
    return model, cls(torch.optim.AdamW(model.parameters(), lr=0.1, fused=True), **kwargs)


def test_same_as_mmengine():
    """Clipping and accumulation as mmengine's wrapper, whose norm goes to the message hub."""
    results = []
    for cls in (OptimWrapper, SlimOptimWrapper):
        model, wrapper = make(cls, accumulative_counts=2, clip_grad=dict(max_norm=0.1))
        wrapper.initialize_count_status(model, 0, 5)
        torch.manual_seed(1)
        for _ in range(5):
            with wrapper.optim_context(model):
                loss = model(torch.randn(3, 6)).square().mean()
            wrapper.update_params(loss)
        results.append((model.weight.detach(), wrapper))
    assert torch.equal(results[0][0], results[1][0])
    norm = results[0][1].message_hub.get_scalar('train/grad_norm').current()
    assert results[1][1].grad_norm.item() == pytest.approx(norm) and results[1][1].at_update()


@pytest.mark.parametrize('clip', [None, dict(max_norm=0.1), dict(type='value', clip_value=10.0)])
def test_gradient_norm(clip):
    model, wrapper = make(SlimOptimWrapper, clip_grad=clip)
    seen = []
    wrapper.optimizer.register_step_pre_hook(lambda *_: seen.append(wrapper.gradient_norm().item()))
    for scale in (1, 3):
        model.zero_grad()
        loss = scale * model(torch.ones(2, 6)).sum()
        wrapper.update_params(loss)
    # d/dW = scale * 2 * ones(5, 6), d/db = scale * 2 * ones(5)
    assert seen == pytest.approx([2 * 35**0.5, 6 * 35**0.5], rel=1e-5)


def test_bf16_forward_float32_rest():
    model, wrapper = make(Bf16OptimWrapper)
    with wrapper.optim_context(model):
        out = model(torch.randn(3, 6))
    assert out.dtype == torch.bfloat16
    wrapper.update_params(out.float().square().mean())
    state = wrapper.optimizer.state_dict()['state'][0]
    assert model.weight.dtype == state['exp_avg'].dtype == torch.float32


@pytest.mark.parametrize('window, ratio', [(1, 0.5), (4, 2.0)])
def test_the_rate_scales_with_the_batch_accumulation_included(tmp_path, window, ratio):
    plain = tiny_run.build(tmp_path / 'plain', max_iters=4)
    plain.train()
    batch = plain.cfg.train_dataloader.batch_size
    scaled = tiny_run.build(tmp_path / 'scaled', max_iters=4, optim_wrapper__accumulative_counts=window,
                            auto_scale_lr=dict(enable=True, base_batch_size=2 * batch))
    scaled.train()
    rates = [runner.optim_wrapper.optimizer.param_groups[0]['initial_lr'] for runner in (plain, scaled)]
    assert rates[1] == pytest.approx(ratio * rates[0], rel=1e-9)


def test_optimizers_of_8_bits(tmp_path):
    """Moments of 8 bits: nearly AdamW's losses, and a resumed run has exactly those of one that went through."""
    pytest.importorskip('bitsandbytes')
    eight = dict(_delete_=True, type='AdamW8bit', lr=1e-2, weight_decay=0.01, min_8bit_size=1)
    runs = {'plain': {}, 'eight': dict(optim_wrapper__optimizer=eight)}
    for name, changes in runs.items():
        runner = tiny_run.build(tmp_path / name, max_iters=12, **changes)
        runner.train()
    plain, through = ([float.fromhex(x) for x in tiny_run.trace(tmp_path / name).values()] for name in runs)
    assert through != plain and through == pytest.approx(plain, rel=0.02)
    for moments in runner.optim_wrapper.optimizer.state.values():
        assert moments['state1'].dtype == moments['state2'].dtype == torch.uint8
    stop = dict(custom_hooks=[dict(type='StopAt', iteration=8)])
    tiny_run.build(tmp_path / 'two', max_iters=12, **runs['eight'], **stop).train()
    tiny_run.build(tmp_path / 'two', max_iters=12, resume=True, **runs['eight']).train()
    assert tiny_run.trace(tmp_path / 'two') == tiny_run.trace(tmp_path / 'eight')
