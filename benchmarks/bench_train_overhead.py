"""What ``tools/train.py`` costs per iteration beyond a bare PyTorch loop over the same model, optimizer and data.

    python benchmarks/bench_train_overhead.py --out benchmarks/results/train_overhead_cpu.json

The real ``SlimRunner.train()`` runs, with its loop, seeding, learning rate schedule, log, speed, NaN guard and EMA
(checkpoints, sample grids and validation are not per-iteration costs and are off). After every K of its iterations a
hook stops its clock and lets the bare loops do K of theirs, so that all see the same machine. The bare loops are what
one would write by hand: load, forward, backward, clip, step; one also keeps an EMA, for that is work of the training
and not of the runner.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator

import timing
import torch
from mmengine.hooks import Hook
from torch.utils.data import DataLoader

from slimdiff.configuration import load_config
from slimdiff.engine import SlimRunner
from slimdiff.registry import DATASETS, MODELS


class TurnHook(Hook):
    """After every K iterations of the runner, K of each rival."""

    priority = 'LOWEST'

    def __init__(self, every: int, rivals: dict[str, Callable[[], None]], warmup: int) -> None:
        self.every, self.rivals, self.warmup = every, rivals, warmup
        self.seconds: dict[str, list[float]] = {name: [] for name in ('runner', *rivals)}

    def before_train(self, runner: SlimRunner) -> None:
        self.start = time.perf_counter()

    def after_train_iter(self, runner: SlimRunner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if (batch_idx + 1) % self.every:
            return
        times = {'runner': time.perf_counter() - self.start}
        turn = (batch_idx + 1) // self.every
        for name in list(self.rivals)[::1 if turn % 2 else -1]:
            start = time.perf_counter()
            for _ in range(self.every):
                self.rivals[name]()
            times[name] = time.perf_counter() - start
        if turn > self.warmup:
            for name, value in times.items():
                self.seconds[name].append(value / self.every)
        self.start = time.perf_counter()


def endless(loader: DataLoader) -> Iterator[dict[str, torch.Tensor]]:
    while True:
        yield from loader


def bare_loop(cfg, amp: bool, ema: bool) -> Callable[[], None]:
    """One iteration as a function."""
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    settings = dict(cfg.optim_wrapper.optimizer)
    settings.pop('type')
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, **settings)
    batches = endless(DataLoader(DATASETS.build(cfg.train_dataloader.dataset), cfg.train_dataloader.batch_size,
                                 shuffle=True, drop_last=True))
    averages = [p.detach().clone() for p in parameters]

    def iteration() -> None:
        batch = next(batches)
        with torch.autocast('cpu', torch.bfloat16, enabled=amp):
            loss = model(**batch)['loss']
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, cfg.optim_wrapper.clip_grad.max_norm)
        optimizer.step()
        optimizer.zero_grad()
        if ema:
            with torch.no_grad():
                torch._foreach_lerp_(averages, parameters, 1e-3)

    return iteration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', default='configs/sd/photo_patches.py')
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--every', type=int, default=10, help='iterations a turn')
    parser.add_argument('--batch-size', type=int)
    parser.add_argument('--amp', action='store_true')
    parser.add_argument('--out', help='JSON file')
    args = parser.parse_args()

    options = {'train_cfg.max_iters': (args.rounds + 2) * args.every, 'train_cfg.val_before_train': False}
    if args.batch_size:
        options['train_dataloader.batch_size'] = args.batch_size
    cfg = load_config(args.config, options)
    for hook in ('checkpoint', 'samples', 'spectra', 'report'):
        cfg.default_hooks[hook] = None
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if args.amp:
        cfg.optim_wrapper.type = 'Bf16OptimWrapper'
    rivals = {'bare': bare_loop(cfg, args.amp, ema=False), 'bare with EMA': bare_loop(cfg, args.amp, ema=True)}
    hook = TurnHook(args.every, rivals, warmup=2)
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        runner = SlimRunner.from_cfg(cfg)
        runner.register_hook(hook)
        runner.train()
    seconds = hook.seconds
    ratios = {base: timing.ratios(seconds, base)['runner'] for base in rivals}
    result = dict(
        config=args.config, batch_size=cfg.train_dataloader.batch_size, amp=args.amp, rounds=args.rounds,
        iterations_a_round=args.every,
        milliseconds={name: timing.spread([1000 * t for t in times]) for name, times in seconds.items()},
        overhead_percent={base: {key: 100 * (ratio - 1) for key, ratio in spread.items()}
                          for base, spread in ratios.items()})
    for name, value in result['milliseconds'].items():
        print(f'{name:14} {value["median"]:8.2f} ms  ({value["q25"]:.2f} - {value["q75"]:.2f})')
    for base, value in result['overhead_percent'].items():
        print(f'runner over {base:14} {value["median"]:+.2f} %  ({value["q25"]:+.2f} - {value["q75"]:+.2f})')
    timing.write(args.out, result)


if __name__ == '__main__':
    main()
