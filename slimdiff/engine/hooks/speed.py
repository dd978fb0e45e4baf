"""How fast training runs, and the memory it takes."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from torch import Tensor

from slimdiff.registry import HOOKS


def peak_resident_memory() -> float:
    """The largest that :func:`resident_memory` has been, in MiB."""
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == 'darwin' else 2**10)


def resident_memory() -> float:
    """Resident memory of this process in MiB (its peak where /proc is missing)."""
    try:
        with open('/proc/self/statm', encoding='utf-8') as file:
            pages = int(file.read().split()[1])
        import resource
        return pages * resource.getpagesize() / 2**20
    except OSError:
        return peak_resident_memory()


def batch_length(batch: Any) -> int:
    """Number of samples: the length of the first tensor in it."""
    values = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, (list, tuple)) else [batch]
    return next((len(value) for value in values if isinstance(value, Tensor) and value.dim()), 0)


@HOOKS.register_module()
class SpeedHook(Hook):
    """Give the log it/s and img/s (all ranks), the share of time spent waiting for data, and memory.

    Only iterations count: validation, sample grids and checkpoints don't lower the figures. On a GPU ``memory_mb`` is
    the peak of allocated device memory since the last line, ``rss_mb`` always the host's.
    """

    # The first to be told of a step's end: what other hooks do after it is not the step's time.
    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.steps = self.images = 0
        self.data_seconds = self.step_seconds = 0.0

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self._start = time.perf_counter()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.step_seconds += time.perf_counter() - self._start
        self.data_seconds += getattr(runner.train_loop, 'data_seconds', 0.0)
        self.steps += 1
        self.images += batch_length(data_batch)

    def log_values(self, runner: Any) -> dict[str, float]:
        """Figures since the last call."""
        seconds = max(self.step_seconds + self.data_seconds, 1e-9)
        values = dict(it_per_s=self.steps / seconds, img_per_s=self.images * get_world_size() / seconds,
                      data_share=self.data_seconds / seconds, rss_mb=resident_memory())
        if torch.cuda.is_available():
            values['memory_mb'] = torch.cuda.max_memory_allocated() / 2**20
            torch.cuda.reset_peak_memory_stats()
        self._reset()
        return values
