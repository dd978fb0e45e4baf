"""A tiny model, dataset and config for tests of the engine; as a script it trains (for tests that kill it)."""

import argparse
import json
import os
import signal
import time
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import BaseLoop

from slimdiff.registry import DATASETS, HOOKS, LOOPS, MODELS

if not MODELS.module_dict.get('TinyDenoiser'):

    @MODELS.register_module()
    class TinyDenoiser(BaseModel):
        """Predicts the noise of one-pixel 'images'; draws for the global batch as DiffusionModel does."""

        def __init__(self, width=8, nan_at=None, nan_gradient_at=None, dropout=0.0):
            super().__init__()
            self.unet = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.BatchNorm1d(width, momentum=None),
                                            torch.nn.Linear(width, 4))
            # BatchNorm would couple the samples of a rank, but its float buffers are what the EMA must copy.
            self.unet[1].eval()
            self.frozen = torch.nn.Linear(4, 4).requires_grad_(False)
            self.nan_at, self.calls, self.dropout = nan_at, 0, dropout
            if nan_gradient_at is not None:  # with a finite loss
                self.unet[0].weight.register_hook(lambda g: g * float('nan') if self.calls == nan_gradient_at else g)

        def train(self, mode=True):
            super().train(mode)
            self.unet[1].eval()
            return self

        def trained_modules(self):
            return {'unet': self.unet}

        def seed_step(self, seed):
            self.step_seed = seed

        def forward(self, inputs, labels=None, mode='loss'):
            from mmengine.dist import get_rank, get_world_size
            generator = torch.Generator().manual_seed(self.step_seed)
            n = len(inputs)
            noise = torch.randn(n * get_world_size(), 4, generator=generator)[get_rank() * n:(get_rank() + 1) * n]
            noise = noise.to(inputs.device)
            x = self.frozen(inputs)
            noised = torch.nn.functional.dropout(x + noise, self.dropout) if self.dropout else x + noise
            loss = (self.unet(noised) - noise).square().mean()
            self.calls += 1
            return dict(loss=loss * float('nan') if self.calls == self.nan_at else loss)

        def sample(self, indices, seed=0, labels=None, num_steps=None, on_step=None):
            torch.rand(3)  # an unseeded draw, which must not reach training
            weight = self.unet[0].weight.detach()[:3, :1, None]
            return (weight[None] * torch.ones(len(indices), 3, 8, 8)).clamp(-1, 1)

    @DATASETS.register_module()
    class TinyData(torch.utils.data.Dataset):
        epoch_indexing = True
        metainfo = dict(classes=('a', 'b'))

        def __init__(self, length=24, nan_at=None, images=False):
            self.length, self.nan_at, self.images = length, nan_at, images

        def __len__(self):
            return self.length

        def __getitem__(self, k):
            generator = torch.Generator().manual_seed(1000 + k)
            x = torch.randn((3, 8, 8) if self.images else (4, ), generator=generator)
            return dict(inputs=x * float('nan') if k == self.nan_at else x)

    @HOOKS.register_module()
    class StopAt(Hook):
        """End training after so many iterations, whatever max_iters says."""

        def __init__(self, iteration):
            self.iteration = iteration

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            runner.train_loop.stop_training = batch_idx + 1 == self.iteration

    @HOOKS.register_module()
    class CollectWeights(Hook):
        """Keep the first weight: before training and after each iteration."""

        def __init__(self):
            self.weights = []

        def before_train(self, runner):
            self.weights.append(runner.unwrapped_model.unet[0].weight.detach().clone())

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            self.before_train(runner)

    @LOOPS.register_module()
    class TinyEvaluation(BaseLoop):
        """An evaluation whose only figure is the number of iterations done."""

        def __init__(self, runner, dataloader, evaluator=None, raise_signal=False):
            super().__init__(runner, dataloader)
            self.iterations, self.raise_signal = [], raise_signal

        def run(self):
            self.runner.call_hook('before_val')
            self.runner.call_hook('before_val_epoch')
            torch.rand(5)
            self.runner.model.eval()
            if self.raise_signal:
                signal.raise_signal(signal.SIGINT)
            self.iterations.append(self.runner.iter)
            figures = {'done': float(self.runner.iter), 'floor/done': 0.5, 'floor/done_std': 0.25}
            self.runner.call_hook('after_val_epoch', metrics=figures)
            self.runner.call_hook('after_val')

    @HOOKS.register_module()
    class TraceHook(Hook):
        """Append every loss, as an exact hexadecimal number, to trace.txt."""

        priority = 'VERY_HIGH'

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            with open(Path(runner.work_dir) / f'trace{runner.rank}.txt', 'a') as file:
                file.write(f'{batch_idx} {float(outputs["loss"].detach()).hex()}\n')


def tiny_config(work_dir, max_iters=12, **changes):
    """A config; ``changes`` are dotted keys with ``__`` for dots."""
    cfg = Config(dict(
        default_scope='slimdiff', work_dir=str(work_dir), randomness=dict(seed=0),
        model=dict(type='TinyDenoiser'),
        train_dataloader=dict(
            num_workers=0, batch_size=8, sampler=dict(type='ResumableSampler', shuffle=True),
            collate_fn=dict(type='default_collate'), dataset=dict(type='TinyData')),
        train_cfg=dict(type='IterTrainLoop', max_iters=max_iters),
        optim_wrapper=dict(type='SlimOptimWrapper', optimizer=dict(type='AdamW', lr=1e-2, fused=True),
                           clip_grad=dict(max_norm=1.0)),
        param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=5),
                         dict(type='CosineAnnealingLR', by_epoch=False, begin=5, end=1000, T_max=995)],
        default_hooks=dict(ema=dict(type='EMAHook', decay=0.9), trace=dict(type='TraceHook'),
                           log=dict(type='TrainLogHook', interval=7),
                           checkpoint=dict(type='CheckpointHook', interval=4, max_keep=3)),
        env_cfg=dict(dist_cfg=dict(backend='gloo', timeout=60)),
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
        log_level='INFO', load_from=None, resume=False))
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in changes.items()})
    return cfg


def build(work_dir, **changes):
    """A SlimRunner of the tiny config."""
    from slimdiff.engine import SlimRunner
    return SlimRunner.from_cfg(tiny_config(work_dir, **changes))


def trace(work_dir, rank=0):
    """Iteration -> loss (hex); of an iteration that was run twice, both losses must be the same."""
    losses = {}
    for line in (Path(work_dir) / f'trace{rank}.txt').read_text().splitlines():
        parts = line.split()
        if len(parts) == 2 and 'p' in parts[1]:  # a kill may leave half a line
            assert losses.setdefault(int(parts[0]), parts[1]) == parts[1], f'iteration {parts[0]} differs'
    return losses


def same(a, b, path=''):
    """Assert that two nested structures are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), (path, a.keys() ^ b.keys())
        for key in a:
            same(a[key], b[key], f'{path}.{key}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b)):
            same(x, y, f'{path}[{i}]')
    else:
        assert a == b, (path, a, b)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('work_dir')
    parser.add_argument('--launcher', default='none')
    parser.add_argument('--changes', type=json.loads, default={})
    parser.add_argument('--fsync-seconds', type=float, default=0.0, help='makes the writing of files slow')
    parser.add_argument('--iter-seconds', type=float, default=0.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.fsync_seconds:
        fsync = os.fsync
        os.fsync = lambda fd: (time.sleep(args.fsync_seconds), fsync(fd))
    if args.iter_seconds:
        from slimdiff.engine import IterTrainLoop
        run_iter = IterTrainLoop.run_iter

        def slowly(self, batch):
            print('iteration begins')
            time.sleep(args.iter_seconds)
            run_iter(self, batch)

        IterTrainLoop.run_iter = slowly
    build(args.work_dir, launcher=args.launcher, **args.changes).train()


if __name__ == '__main__':
    main()
