"""The log of a run: losses, learning rate and what other hooks report, as lines, JSON, and to trackers."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import all_reduce_dict, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop
from torch import Tensor

from slimdiff.engine.best_effort import best_effort
from slimdiff.engine.tracking import trackers_of
from slimdiff.registry import HOOKS

#: how figures of other hooks look in a line; the rest is printed with four digits
FORMATS = dict(it_per_s='{:.3g} it/s', img_per_s='{:.0f} img/s', data_share='data {:.0%}', rss_mb='rss {:.0f} MB',
               memory_mb='gpu {:.0f} MB', lr='lr {:.2e}')


def iterations_done(runner: Any) -> int:
    """Iterations of the run; 0 where there is no training (``runner.train_loop`` would build the loop and its data)."""
    return runner._train_loop.iter if isinstance(runner._train_loop, BaseLoop) else 0


def format_value(name: str, value: float) -> str:
    return FORMATS[name].format(value) if name in FORMATS else f'{name} {value:.4g}'


@HOOKS.register_module()
class TrainLogHook(Hook):
    """Log every ``interval`` iterations the mean of the losses since the last line.

    It stands in for mmengine's RuntimeInfoHook, IterTimerHook and LoggerHook, which read every loss back from the
    device at every iteration and append it to a numpy array that is copied whole each time: cost that grows with the
    length of the run. Here losses are summed on their device and read once a line. The sums are part of a
    checkpoint, so a resumed run logs the same means.

    Figures go to the log file and the terminal, to the visualizer's backends (``vis_data/scalars.json``; TensorBoard
    and W&B if the config has them) and, as the last value, to mmengine's message hub. Other hooks add some with
    ``log_values(runner) -> dict[str, float]``.
    """

    # After SpeedHook, before the checkpoint.
    priority = 'BELOW_NORMAL'

    def __init__(self, interval: int = 50) -> None:
        if interval < 1:
            raise ValueError(f'TrainLogHook: interval must be at least 1, got {interval}.')
        self.interval = interval
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def before_train(self, runner: Any) -> None:
        self._json = f'{runner.timestamp}.json'
        self._started, self._first = time.monotonic(), runner.iter
        if is_main_process():
            for tracker in trackers_of(runner.visualizer):  # its errors (no login, say) come before the training
                tracker.experiment  # noqa: B018

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        for name, value in (outputs or {}).items():
            if isinstance(value, Tensor):
                value = value.detach()
                self.sums[name] = self.sums[name] + value if name in self.sums else value.float()
        self.count += 1
        done = batch_idx + 1
        if done % self.interval == 0 or done == runner.max_iters:
            self._log(runner, done)

    def _log(self, runner: Any, done: int) -> None:
        means = {name: total / self.count for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        if get_world_size() > 1:
            all_reduce_dict(means, op='mean')
        wrapper = runner.optim_wrapper
        values = {name: float(value) for name, value in means.items()}
        values['lr'] = wrapper.get_lr()['lr'][0]
        norm = getattr(wrapper, 'grad_norm', None)
        if norm is not None:
            values['grad_norm'] = float(norm)
        for hook in runner.hooks:
            if hasattr(hook, 'log_values'):
                values.update(hook.log_values(runner))
        for name, value in values.items():
            runner.message_hub.update_scalar(f'train/{name}', value)
        if is_main_process():
            per_iter = (time.monotonic() - self._started) / max(done - self._first, 1)
            left = datetime.timedelta(seconds=round(per_iter * (runner.max_iters - done)))
            figures = '  '.join(format_value(name, value) for name, value in values.items())
            width = len(str(runner.max_iters))
            # On a terminal the progress bar shows this; the file gets the line anyhow.
            runner.logger.info(f'[{done:{width}}/{runner.max_iters}]  {figures}  left {left}',
                               extra={'in_progress_bar': True})
            with best_effort(runner, self._json):
                runner.visualizer.add_scalars({f'train/{name}': value for name, value in values.items()}, step=done,
                                              file_path=self._json)

    # ---- evaluation -----------------------------------------------------------------------------------------------

    def _log_metrics(self, runner: Any, stage: str, metrics: Mapping[str, float] | None, step: int) -> None:
        if metrics and is_main_process():
            figures = '  '.join(f'{name} {value:.4g}' for name, value in metrics.items()
                                if not name.startswith('floor/'))
            runner.logger.info(f'{stage} at iteration {step}:  {figures}')
            with best_effort(runner, 'scalars.json'):
                runner.visualizer.add_scalars({f'{stage}/{k}': v for k, v in metrics.items()}, step=step)

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        self._log_metrics(runner, 'val', metrics, iterations_done(runner))

    def after_test_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        self._log_metrics(runner, 'test', metrics, 0)

    def after_run(self, runner: Any) -> None:
        runner.visualizer.close()

    # ---- checkpoints ----------------------------------------------------------------------------------------------

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint['log'] = dict(sums=dict(self.sums), count=self.count)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        log = checkpoint.get('log', {})
        device = next(runner.unwrapped_model.parameters()).device
        self.sums = {name: torch.as_tensor(value).to(device) for name, value in log.get('sums', {}).items()}
        self.count = log.get('count', 0)
