"""Progress with rate and remaining time: tqdm's bar on a terminal, lines in the log elsewhere."""

from __future__ import annotations

import io
import sys
from typing import Any

from mmengine.dist import is_main_process
from mmengine.logging import print_log
from tqdm import tqdm


class Progress(tqdm):
    """Count work done; only the main process shows it.

    Args:
        total: amount of work, in ``unit``; None if it isn't known.
        name, unit: what is shown.
        interval: seconds between two lines where there is no terminal.
        enabled: False shows nothing.
        initial: work done before; it doesn't count for the rate.
    """

    monitor_interval = 0  # no thread that redraws: it would be copied into the workers of a loader

    def __init__(self, total: float | None, name: str, unit: str = 'img', interval: float = 10.0,
                 enabled: bool = True, initial: float = 0) -> None:
        self._in_lines = not sys.stderr.isatty()
        left = '' if total is None else ', {remaining} left'
        line = f'{{desc}} {{n:.0f}}/{{total_fmt}} {unit}, {{rate_fmt}}{left}{{postfix}}'
        bar = '{l_bar}{bar}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]'
        super().__init__(total=total, desc=name, unit=f' {unit}', initial=initial, leave=False, dynamic_ncols=True,
                         smoothing=0, miniters=0, mininterval=interval if self._in_lines else 0.1,
                         file=io.StringIO() if self._in_lines else sys.stderr,
                         bar_format=line if self._in_lines else bar, disable=not (enabled and is_main_process()))

    def update(self, n: float = 1.0) -> bool | None:
        """Add to the work done; a fraction is fine (one denoising step of a batch)."""
        if self.disable:  # tqdm stops counting then
            self.n += n
            return None
        if self.total is not None and abs(self.total - self.n - n) < 1e-6:  # fractions add up to a hair more: "-00:00"
            n = self.total - self.n
        return super().update(n)

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        """Called by tqdm when something is to be seen; ``msg`` '' clears the bar."""
        if not self._in_lines:
            return super().display(msg, pos)
        if msg is None and self.n > self.initial:
            print_log(' '.join(str(self).split()), logger='current')  # tqdm pads numbers
        return True
