"""A progress bar on a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from tqdm import tqdm

from slimdiff.registry import HOOKS


class _AboveBar(logging.Filter):
    """Print a handler's records above the bar, and leave out those whose content the bar shows."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__()
        self.handler = handler

    def filter(self, record: logging.LogRecord) -> bool:
        if not getattr(record, 'in_progress_bar', False):
            tqdm.write(self.handler.format(record), file=sys.stdout)
        return False


@HOOKS.register_module()
class ProgressHook(Hook):
    """Show rate, remaining time and loss in a bar, on a terminal; elsewhere TrainLogHook's lines do.

    Args:
        interval: iterations between two readings of the loss (on a GPU each waits for the device).
        enabled: None shows the bar where stderr is a terminal.
    """

    priority = 'LOWEST'

    def __init__(self, interval: int = 10, enabled: bool | None = None) -> None:
        self.interval, self.enabled = interval, enabled
        self.bar: tqdm | None = None
        self._filters: list[tuple[logging.Handler, logging.Filter]] = []

    def before_train(self, runner: Any) -> None:
        enabled = sys.stderr.isatty() if self.enabled is None else self.enabled
        if not enabled or not is_main_process():
            return
        self.bar = tqdm(total=runner.max_iters, initial=runner.iter, desc='train', unit='it', dynamic_ncols=True,
                        smoothing=0.05)
        for handler in runner.logger.handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                above = _AboveBar(handler)
                handler.addFilter(above)
                self._filters.append((handler, above))

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None,
                         outputs: Mapping[str, Any] | None = None) -> None:
        if self.bar is None:
            return
        if batch_idx % self.interval == 0 and outputs and 'loss' in outputs:
            self.bar.set_postfix_str(f'loss {float(outputs["loss"].detach()):.4f}', refresh=False)
        self.bar.update()

    def after_train(self, runner: Any) -> None:
        self._close()

    def before_interrupt(self, runner: Any) -> None:
        self._close()

    def _close(self) -> None:
        for handler, above in self._filters:
            handler.removeFilter(above)
        self._filters = []
        if self.bar is not None:
            self.bar.close()
            self.bar = None
