"""The training loop: iteration i is a function of (seed, i, rank) and of the weights before it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, get_rank, get_world_size
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop
from torch.utils.data import DataLoader

from slimdiff.datasets.seeding import seed32
from slimdiff.engine.distributed import any_rank
from slimdiff.interrupts import Interrupts
from slimdiff.registry import LOOPS


class TrainingInterrupted(SystemExit):
    """Training was stopped by a signal after its state was saved. ``code`` is 130 (Ctrl-C) or 143 (SIGTERM)."""


def seed_iteration(seed: int, iteration: int, rank: int = 0, part: int = 0) -> None:
    """Seed the global generators of torch, numpy and random for a part of this iteration of this rank."""
    value = seed32(seed, iteration, rank, part)
    torch.manual_seed(value)
    np.random.seed(value)
    random.seed(value)


@LOOPS.register_module()
class IterTrainLoop(BaseLoop):
    """Train for a number of iterations, resumable bit for bit.

    Every iteration seeds the global generators with a function of (seed, iteration, rank) and gives
    ``model.seed_step`` one of (seed, iteration), so that neither validation nor plots nor a resume change what
    training draws. A sampler with ``set_position`` starts at the right batch; with any other the loader is replayed.

    Ctrl-C or SIGTERM finishes the iteration (with gradient accumulation, the window), calls the hooks'
    ``on_interrupt`` (the checkpoint hook saves) and raises :class:`TrainingInterrupted` with 130 or 143.

    Args:
        runner, dataloader: given by the Runner.
        max_iters: iterations in all.
        val_interval: validate every so many iterations, and at the end.
        val_begin: but not before this one.
        val_before_train: also validate the untrained network: what the report compares with.
        sync_interval: every how many iterations the ranks of a distributed run ask each other for a signal; they
            have to stop at the same one.

    Raises:
        ValueError: an interval or max_iters below 1.
    """

    def __init__(self,
                 runner: Any,
                 dataloader: DataLoader | Mapping[str, Any],
                 max_iters: int,
                 val_interval: int = 1000,
                 val_begin: int = 1,
                 val_before_train: bool = False,
                 sync_interval: int = 10) -> None:
        for name, value in (('max_iters', max_iters), ('val_interval', val_interval), ('sync_interval', sync_interval)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f'train_cfg.{name} must be an integer of at least 1, got {value!r}.')
        super().__init__(runner, dataloader)
        self._max_iters, self.val_interval, self.val_begin = max_iters, val_interval, val_begin
        self.val_before_train, self.sync_interval = val_before_train, sync_interval
        self._iter = self._epoch = 0
        self.stop_training = False  # mmengine's EarlyStoppingHook sets it
        self.data_seconds = 0.0  # waiting for the current batch; read by SpeedHook
        self.runner.visualizer.dataset_meta = getattr(self.dataloader.dataset, 'metainfo', None)

    @property
    def max_iters(self) -> int:
        return self._max_iters

    @property
    def max_epochs(self) -> int:
        return 1

    @property
    def iter(self) -> int:
        """Iterations done; within an iteration and its hooks, its index."""
        return self._iter

    @property
    def epoch(self) -> int:
        return self._epoch

    # ---- data -----------------------------------------------------------------------------------------------------

    def batches(self) -> Iterator[Any]:
        """Batches from iteration :attr:`iter` on, without end."""
        replay = self._iter
        sampler = getattr(self.dataloader.batch_sampler, 'sampler', self.dataloader.sampler)
        if hasattr(sampler, 'set_position'):
            sampler.set_position(self._iter)
            replay = 0
        elif replay:
            print_log(f'{type(sampler).__name__} has no set_position: reading {replay} batches again to get there. '
                      'ResumableSampler needs no replay.', logger='current')
        epoch = 0
        while True:
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(epoch)
            for batch in self.dataloader:
                if replay:
                    replay -= 1
                else:
                    yield batch
            epoch += 1

    # ---- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> Any:
        """Train from :attr:`iter` to the end; returns the model."""
        runner, distributed = self.runner, get_world_size() > 1
        # Under torchrun a terminal's Ctrl-C arrives twice.
        with Interrupts(immediate=not distributed, debounce=2.0 if distributed else 0.0) as self.interrupts:
            runner.call_hook('before_train')
            runner.call_hook('before_train_epoch')
            try:
                # A run killed in the validation after its checkpoint makes up for it here.
                if (self.val_before_train and not self._iter) or (self._iter and self._validation_is_due()):
                    if not self._iter:
                        print_log('Measuring the untrained network, to compare with (train_cfg.val_before_train).',
                                  logger='current')
                    self._validate()
                self._train()
            except KeyboardInterrupt:
                if not self.interrupts.signum:
                    raise
                self._stop()
            runner.call_hook('after_train_epoch')
            runner.call_hook('after_train')
            barrier()  # the main process may still be writing; torchrun ends it if another one aborts
        return runner.model

    def _train(self) -> None:
        runner, batches = self.runner, self.batches()
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        seed_step = getattr(model, 'seed_step', None)
        rank = get_rank()
        # Setting the mode walks through all modules: not every iteration, only after what may have changed it.
        runner.model.train()
        if self._must_stop():
            self._stop()
        while self._iter < self._max_iters and not self.stop_training:
            start = time.perf_counter()
            seed_iteration(runner.seed, self._iter, rank)
            batch = next(batches)
            # Once more: the first batch also makes the loader's iterator, which draws a number. A network with dropout
            # would not resume as it went on.
            seed_iteration(runner.seed, self._iter, rank, part=1)
            if seed_step is not None:
                seed_step(seed32(runner.seed, self._iter))
            self.data_seconds = time.perf_counter() - start
            self.run_iter(batch)
            if self._must_stop():
                self._stop()
            if self._validation_is_due():
                self._validate()

    def run_iter(self, data_batch: Any) -> None:
        """One iteration with its hooks."""
        runner, index = self.runner, self._iter
        runner.message_hub.update_info('iter', index)
        runner.call_hook('before_train_iter', batch_idx=index, data_batch=data_batch)
        outputs = runner.model.train_step(data_batch, optim_wrapper=runner.optim_wrapper)
        runner.call_hook('after_train_iter', batch_idx=index, data_batch=data_batch, outputs=outputs)
        self._iter += 1

    def _validation_is_due(self) -> bool:
        return (self.runner.val_loop is not None and self._iter >= self.val_begin
                and (self._iter % self.val_interval == 0 or self._iter == self._max_iters))

    def _validate(self) -> None:
        if self.runner.val_loop is None:
            return
        self.interrupts.validating = True
        try:
            if self.interrupts.signum and self.interrupts.immediate:
                raise KeyboardInterrupt
            self.runner.val_loop.run()
        finally:
            self.interrupts.validating = False
        self.runner.model.train()

    def _must_stop(self) -> bool:
        """Whether a signal came and no gradient is pending; on all ranks alike."""
        signum = self.interrupts.signum
        if get_world_size() > 1:
            if self._iter % self.sync_interval:
                return False
            signum = self.interrupts.signum = any_rank(signum, self._sync_device())
        wrapper = self.runner.optim_wrapper
        return bool(signum) and (not hasattr(wrapper, 'at_update') or wrapper.at_update())

    def _sync_device(self) -> torch.device:
        # NCCL reduces GPU tensors only.
        return next(self.runner.model.parameters()).device

    def _stop(self) -> None:
        self.runner.call_hook('before_interrupt')
        self.runner.call_hook('on_interrupt')
        barrier()  # the ranks that write nothing must not bring down, by leaving, the one that does
        print_log(self._what_is_left(), logger='current')
        raise TrainingInterrupted(self.interrupts.exit_code)

    def _what_is_left(self) -> str:
        if self._iter < self._max_iters:
            return (f'Stopped after {self._iter} of {self._max_iters} iterations. To continue, run the same command; '
                    'slimdiff train needs --resume for it.')
        left = 'the last validation' if self._validation_is_due() else 'what the hooks do after training'
        return (f'Stopped after all {self._max_iters} iterations, which are saved. Only {left} is left: --resume does '
                'that, and trains no further.')
