"""Progress with rate and remaining time: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from mmengine.dist import is_main_process
from mmengine.logging import print_log
from tqdm import tqdm


class Progress:
    """Count work done; only the main process shows it.

    Args:
        total: amount of work, in ``unit``; None if it isn't known.
        name, unit: what is shown.
        interval: seconds between two lines where there is no terminal.
        enabled: False shows nothing.
    """

    def __init__(self, total: int | None, name: str, unit: str = 'img', interval: float = 10.0,
                 enabled: bool = True) -> None:
        self.total, self.name, self.unit, self.interval = total, name, unit, interval
        self.done = 0.0
        self.enabled = enabled and is_main_process()
        self._start = self._last = time.monotonic()
        self._bar = None
        if self.enabled and sys.stderr.isatty():
            self._bar = tqdm(total=total, desc=name, unit=unit, leave=False, dynamic_ncols=True,
                             bar_format=None if total is None else
                             '{l_bar}{bar}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]')

    def update(self, amount: float = 1.0) -> None:
        """Add to the work done; a fraction is fine (one denoising step of a batch)."""
        self.done += amount
        if self._bar is not None:
            self._bar.update(amount)
        elif self.enabled and time.monotonic() - self._last >= self.interval:
            self._last = time.monotonic()
            print_log(self.line(), logger='current')

    def line(self) -> str:
        """The progress in words: ``sampling 128/1000 img, 12.3 img/s, 71 s left``."""
        rate = self.done / max(time.monotonic() - self._start, 1e-9)
        if self.total is None:
            return f'{self.name} {self.done:.0f} {self.unit}, {rate:.3g} {self.unit}/s'
        left = (self.total - self.done) / rate if rate else float('inf')
        return f'{self.name} {self.done:.0f}/{self.total} {self.unit}, {rate:.3g} {self.unit}/s, {left:.0f} s left'

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
