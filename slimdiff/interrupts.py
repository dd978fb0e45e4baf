"""Ctrl-C and SIGTERM (SLURM, torchrun) set a flag; whoever works stops where nothing is torn."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType

from mmengine.dist import is_main_process


class Interrupts:
    """While this context is active, the first signal only sets :attr:`signum`; a second Ctrl-C exits at once.

    Args:
        immediate: what a signal does during validation, where no training state can be torn: True raises
            KeyboardInterrupt. Ranks of a distributed run must leave together and finish the validation instead.
        debounce: seconds in which a second Ctrl-C counts as the same one. torchrun hands on to its processes the
            Ctrl-C which the terminal has already given them.
    """

    def __init__(self, immediate: bool = True, debounce: float = 0.0) -> None:
        self.immediate, self.debounce = immediate, debounce
        self.signum = 0
        self.validating = False
        self._since = 0.0
        self._process = os.getpid()
        self._old: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        # Only the main thread may set handlers; in another one (a notebook's, a test's) signals stay as they are.
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._old[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for signum, handler in self._old.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a data loader's worker, which inherited this handler: the main process will end it
        if self.signum:
            if signum == signal.SIGINT and time.monotonic() - self._since > self.debounce:
                raise SystemExit(128 + signum)
            return
        self.signum, self._since = signum, time.monotonic()
        name = 'Ctrl-C' if signum == signal.SIGINT else signal.Signals(signum).name
        if is_main_process():
            # Neither print nor a logger: the signal may have come in the middle of their work on the same stream.
            work = 'leaving this validation' if self.validating and self.immediate else 'finishing this iteration'
            os.write(2, f'\n{name}: {work} and saving. Press Ctrl-C again to exit at once.\n'.encode())
        if self.validating and self.immediate:
            raise KeyboardInterrupt

    @property
    def exit_code(self) -> int:
        return 128 + self.signum
