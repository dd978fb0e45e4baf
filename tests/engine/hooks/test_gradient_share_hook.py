"""Shares of the gradient by hand, and a run that does not notice that it is measured."""

import json
import random

import numpy as np
import pytest
import tiny_run
import torch
from mmengine.hooks import Hook

from slimdiff.datasets.seeding import seed32
from slimdiff.engine.hooks import GradientShareHook
from slimdiff.engine.hooks.gradient_share import gradient_norms
from slimdiff.engine.loops import seed_iteration
from slimdiff.registry import MODELS

TinyDenoiser = MODELS.get('TinyDenoiser')

if not MODELS.module_dict.get('TwoTerms'):

    @MODELS.register_module()
    class TwoTerms(TinyDenoiser):
        """Everything that a careless measurement would disturb: batch statistics, dropout, draws of three kinds."""

        def __init__(self, weight=0.5, dropout=0.2):
            super().__init__()
            self.unet = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(dropout),
                                            torch.nn.Linear(8, 4))
            self.weight = weight

        def train(self, mode=True):
            return torch.nn.Module.train(self, mode)

        def noised_batch(self, inputs, labels=None):
            return inputs

        def loss_terms(self, inputs):
            seed, self.step_seed = self.step_seed, None
            noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(seed))
            shift = np.random.rand() + random.random()
            shift = shift + torch.rand(()) if self.unet[2].p else shift
            y = self.unet(inputs + noise)
            return {'denoising': (y - noise).square().mean(),
                    'spatial_loss': self.weight * (y - shift).square().mean()}

        def forward(self, inputs, labels=None, mode='loss'):
            terms = self.loss_terms(self.noised_batch(inputs, labels))
            return {'loss': sum(terms.values())}


def final_state(folder, *hooks, **changes):
    runner = tiny_run.build(folder, model=dict(type='TwoTerms'), custom_hooks=list(hooks), **changes)
    runner.train()
    return runner, {key: value.clone() for key, value in runner.model.state_dict().items()}


def scalars(runner, folder):
    file = folder / runner.timestamp / 'vis_data' / f'{runner.timestamp}.json'
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_norms_by_hand():
    w, b, other = torch.ones(3, 4, requires_grad=True), torch.ones(5, requires_grad=True), torch.ones(2)
    shared = (2 * w).sum()  # both terms go through it: the graph has to live on for the second
    terms = {'a': shared, 'b': 3 * shared + 4 * b.sum(), 'constant': other.sum()}
    w.grad = torch.full_like(w, 7.0)
    norms = gradient_norms(terms, [w, b])
    assert norms == pytest.approx({'a': 2 * 12**0.5, 'b': (36 * 12 + 16 * 5)**0.5, 'constant': 0.0})
    assert (w.grad == 7).all() and b.grad is None


@pytest.mark.parametrize('accumulate', [1, 3])
def test_the_weights_are_bit_for_bit_those_of_a_run_without(tmp_path, accumulate):
    changes = dict(optim_wrapper__accumulative_counts=accumulate)
    _, plain = final_state(tmp_path / 'plain', **changes)
    _, measured = final_state(tmp_path / 'measured', dict(type='GradientShareHook', interval=1), **changes)
    tiny_run.same(plain, measured)
    assert tiny_run.trace(tmp_path / 'plain') == tiny_run.trace(tmp_path / 'measured')


def test_the_share_is_that_of_the_step_that_follows(tmp_path):
    """At iteration 2 of learning rate 0: the gradients by hand from the batch, the seed and the untouched weights."""
    runner = tiny_run.build(tmp_path, model=dict(type='TwoTerms', weight=2.0), max_iters=2,
                            optim_wrapper__optimizer=dict(type='SGD', lr=0.0),
                            param_scheduler=[], default_hooks__log__interval=1,
                            custom_hooks=[dict(type='GradientShareHook', interval=2)])
    batches = []
    keep = Hook()
    keep.before_train_iter = lambda runner, batch_idx, data_batch=None: batches.append(data_batch)
    runner.register_hook(keep)
    runner.train()
    first, second = scalars(runner, tmp_path)
    assert not any('grad_share' in name for name in first)

    model, norms = runner.model.train(), {}
    for name in ('denoising', 'spatial_loss'):
        seed_iteration(runner.seed, 1, part=1)
        model.seed_step(seed32(runner.seed, 1))
        model.zero_grad()
        model.loss_terms(model.noised_batch(batches[1]['inputs']))[name].backward()
        norms[name] = sum(float(p.grad.square().sum()) for p in model.unet.parameters())**0.5
    share = norms['spatial_loss'] / sum(norms.values())
    assert second['train/grad_share/spatial_term'] == pytest.approx(share, rel=1e-4)
    assert second['train/grad_share/denoising'] == pytest.approx(1 - share, rel=1e-4)
    assert runner.message_hub.get_scalar('train/grad_share/denoising').current() == pytest.approx(1 - share, rel=1e-4)


def test_warns_once_of_a_term_that_dominates(tmp_path):
    runner = tiny_run.build(tmp_path, model=dict(type='TwoTerms', weight=100.0), max_iters=6,
                            custom_hooks=[dict(type='GradientShareHook', interval=2, limit=0.9)])
    runner.train()
    log = next((tmp_path / runner.timestamp).glob('*.log')).read_text()
    assert log.count("The term 'spatial_loss' has") == 1 and 'at iteration 2 (limit 90%)' in log


def test_the_plain_term_may_dominate(tmp_path):
    runner, _ = final_state(tmp_path, dict(type='GradientShareHook', interval=2, limit=0.1), max_iters=4,
                            model__weight=1e-6)
    assert '(limit' not in next((tmp_path / runner.timestamp).glob('*.log')).read_text()


def test_a_resumed_run_logs_the_same_mean(tmp_path):
    hook, changes = dict(type='GradientShareHook', interval=1), dict(max_iters=7, model__dropout=0.0)
    whole, _ = final_state(tmp_path / 'whole', hook, **changes)
    final_state(tmp_path / 'parts', hook, dict(type='StopAt', iteration=4), **changes)
    resumed, _ = final_state(tmp_path / 'parts', hook, resume=True, **changes)
    key = 'train/grad_share/denoising'
    assert scalars(whole, tmp_path / 'whole')[-1][key] == scalars(resumed, tmp_path / 'parts')[-1][key]


def test_errors(tmp_path):
    with pytest.raises(ValueError, match='interval .* got 0'):
        GradientShareHook(interval=0)
    with pytest.raises(ValueError, match=r'share in \(0, 1\], got 1.5'):
        GradientShareHook(limit=1.5)
    runner = tiny_run.build(tmp_path, custom_hooks=[dict(type='GradientShareHook')])
    with pytest.raises(ValueError, match='TinyDenoiser has no noised_batch and no loss_terms'):
        runner.train()


def test_a_distiller_is_measured_and_not_disturbed(tmp_path):
    """The terms of a Distiller by their names; the shares add up to one; the weights are those of a run without."""
    def unet(channels):
        return dict(type='UNet', sample_size=8, norm_groups=4, dropout=0.1,
                    stages=[dict(channels=channels, blocks=1), dict(channels=2 * channels, blocks=1)])

    torch.manual_seed(0)
    teacher = MODELS.build(dict(type='DiffusionModel', unet=unet(8)))
    for p in teacher.unet.parameters():  # zero-initialised layers would teach nothing
        torch.nn.init.normal_(p, std=0.1)
    teacher.unet.save_pretrained(tmp_path / 'teacher')
    model = dict(type='Distiller', unet=unet(4), teacher=dict(checkpoint=str(tmp_path / 'teacher')),
                 losses=[dict(type='SpatialLoss', tap=['output', 'up1']), dict(type='SpectralLoss', tap='output')])
    states = []
    for name, hooks in (('plain', []), ('measured', [dict(type='GradientShareHook', interval=2)])):
        runner = tiny_run.build(tmp_path / name, max_iters=4, model=model, custom_hooks=hooks,
                                train_dataloader__dataset__images=True, default_hooks__log__interval=4)
        runner.train()
        states.append({key: value.clone() for key, value in runner.model.state_dict().items()})
    tiny_run.same(*states)
    logged = {name: value for name, value in scalars(runner, tmp_path / 'measured')[-1].items() if 'grad_share' in name}
    assert set(logged) == {f'train/grad_share/{term}' for term in
                           ('denoising', 'spatial_output', 'spatial_up1', 'spectral_output')}
    assert sum(logged.values()) == pytest.approx(1) and min(logged.values()) > 0
