"""Several lines of progress: repainted in place on a terminal, printed now and then elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from typing import TextIO


def duration(seconds: float) -> str:
    """``12 s``, ``3:20``, ``1:02:09``."""
    seconds = round(seconds)
    if seconds < 60:
        return f'{seconds} s'
    hours, minutes = divmod(seconds // 60, 60)
    return f'{hours}:{minutes:02}:{seconds % 60:02}' if hours else f'{minutes}:{seconds % 60:02}'


class Display:
    """Show a block of lines, with messages above it.

    Args:
        stream: where; stderr by default.
        interval: seconds between two blocks where there is no terminal.
    """

    def __init__(self, stream: TextIO | None = None, interval: float = 30.0) -> None:
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.interval = 1.0 if self.live else interval
        self._painted = 0
        self._last = float('-inf')

    def show(self, lines: Sequence[str]) -> None:
        """Show the block, unless the last one is too recent."""
        now = time.monotonic()
        if now - self._last < self.interval:
            return
        self._last = now
        self._clear()
        width = shutil.get_terminal_size().columns - 1 if self.live else None
        self._write(''.join(line[:width] + '\n' for line in lines))
        self._painted = len(lines) if self.live else 0

    def say(self, message: str) -> None:
        """Print a message that stays."""
        self._clear()
        self._write(message + '\n')
        self._last = float('-inf') if self.live else self._last

    def close(self) -> None:
        self._clear()

    def _clear(self) -> None:
        if self._painted:
            self._write(f'\x1b[{self._painted}F\x1b[J')
            self._painted = 0

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()
