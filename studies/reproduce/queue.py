"""Training runs side by side: a loop over ``slimdiff train --resume``, each in a process with a log of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from studies.reproduce.work_dirs import StudyRun


def train_command(run: StudyRun) -> list[str]:
    """What trains a run: ``slimdiff train``, with this very Python. It refuses a work dir that is in use."""
    return [sys.executable, '-m', 'slimdiff.cli.main', 'train', *run.arguments()]


def work(runs: Sequence[StudyRun], jobs: int, finish: Callable[[StudyRun, float], None],
         command: Callable[[StudyRun], list[str]] = train_command, threads: int | None = None) -> dict[str, str]:
    """Train runs, ``jobs`` at a time; one that fails does not stop the others.

    Args:
        runs: in this order.
        jobs: processes side by side.
        finish: called with a run whose process has ended well, and its seconds; raises ValueError if there is no
            result after all.
        command: makes the command line of a run.
        threads: of each process; the cores by the jobs if it is None.

    Returns:
        name of a run -> what went wrong.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM, after every process has saved its state and ended.
    """
    package = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, 'OMP_NUM_THREADS': str(threads or max(1, available_cores() // jobs)),
                   'PYTHONPATH': os.pathsep.join([package, *filter(None, [os.environ.get('PYTHONPATH')])])}
    waiting, running, failed = deque(runs), {}, {}
    old = signal.signal(signal.SIGTERM, signal.default_int_handler)

    def start(run: StudyRun) -> None:
        run.log.parent.mkdir(parents=True, exist_ok=True)
        if run.overwrite:
            # Else the report of the run that is removed would pass for this one's.
            (run.work_dir / 'metrics.json').unlink(missing_ok=True)
        with open(run.log, 'ab') as log:
            # In a session of its own: a Ctrl-C in the terminal reaches it once, through this loop.
            process = subprocess.Popen(command(run), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                       start_new_session=True, env=environment)
        running[run.name] = run, process, time.monotonic()
        print(f'{run.name}: started, see {run.log}', file=sys.stderr)

    def end(run: StudyRun, process: subprocess.Popen, started: float) -> None:
        del running[run.name]
        seconds, why = time.monotonic() - started, ''
        if process.returncode:
            tail = run.log.read_text(encoding='utf-8', errors='replace').rstrip().splitlines()[-15:]
            why = '\n    '.join([f'exit status {process.returncode}; the end of {run.log}:', *tail])
        else:
            try:
                finish(run, seconds)
            except ValueError as error:
                why = str(error)
        if why:
            failed[run.name] = why
        print(f'{run.name}: ' + (f'FAILED: {why}' if why else f'done in {seconds / 60:.1f} min'), file=sys.stderr)

    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                start(waiting.popleft())
            time.sleep(0.2)
            for one in [one for one in running.values() if one[1].poll() is not None]:
                end(*one)
    except KeyboardInterrupt:
        print(f'Stopping {len(running)} runs; they finish their iteration and save.', file=sys.stderr)
        for _, process, _ in running.values():
            process.send_signal(signal.SIGINT)
        for one in list(running.values()):
            if one[1].wait() == 0:  # it ended well just now
                end(*one)
        raise
    finally:
        signal.signal(signal.SIGTERM, old)
    return failed


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
