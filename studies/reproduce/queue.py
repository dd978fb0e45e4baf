"""Training runs side by side, each a process of its own."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from studies.reproduce.display import Display, duration
from studies.reproduce.work_dirs import Run, lock

#: `[ 5200/10000]  loss ... 37.1 it/s` of TrainLogHook
TRAINING = re.compile(r'\[\s*(\d+)/(\d+)\].*? ([\d.]+(?:e[+-]?\d+)?) it/s')
#: `sampling 128/1000 img, ...` of an evaluation
EVALUATING = re.compile(r' ((?:sampling|real images) \d+/\d+) img')

#: `DDIMScheduler:50 128/1000 img, 12.3 img/s, 71 s left` of any Progress
PROGRESS = re.compile(r'INFO - (\S.* left)\b')


def train_command(run: Run) -> list[str]:
    """What trains a run: ``slimdiff train``, with this very Python."""
    return [sys.executable, '-m', 'slimdiff.cli.main', 'train', *run.arguments()]


@dataclasses.dataclass
class Child:
    """A run that is training."""
    run: Run
    process: subprocess.Popen
    log_start: int
    started: float

    def text(self, limit: int = 6000) -> str:
        """The end of what it has printed since it was started."""
        try:
            with open(self.run.log, 'rb') as file:
                file.seek(max(self.log_start, file.seek(0, os.SEEK_END) - limit))
                return file.read().decode(errors='replace')
        except OSError:
            return ''

    def progress(self) -> tuple[int, int, float] | None:
        """(iteration, iterations, iterations per second); None before the first line of the log."""
        found = TRAINING.findall(self.text())
        return (int(found[-1][0]), int(found[-1][1]), float(found[-1][2])) if found else None

    def line(self) -> str:
        """What it does, in words."""
        progress, text = self.progress(), self.text()
        if progress is None:
            return (PROGRESS.findall(text) or ['starting'])[-1]
        done, total, rate = progress
        evaluating = EVALUATING.findall(text[text.rfind('it/s'):])
        if evaluating:
            return f'{done}/{total}, {evaluating[-1]}'
        return f'{done}/{total}, {rate:.3g} it/s, {duration((total - done) / rate) if rate else "?"} left'

    def seconds_left(self) -> float | None:
        progress = self.progress()
        return (progress[1] - progress[0]) / progress[2] if progress and progress[2] else None


class Queue:
    """Train runs, ``jobs`` at a time; what fails does not stop the others.

    Args:
        runs: in this order.
        jobs: processes side by side.
        finish: called with a run whose process has ended well, and its seconds; raises ValueError if there is no
            result after all.
        seconds: what runs of an arm are known to take, for the remaining time.
        command: makes the command line of a run.
        threads: of each process; the cores by the jobs if it is None.
        title: of the display.
    """

    def __init__(self, runs: Sequence[Run], jobs: int, finish: Callable[[Run, float], None],
                 seconds: Mapping[str, float] | None = None, command: Callable[[Run], list[str]] = train_command,
                 threads: int | None = None, title: str = 'runs') -> None:
        self.waiting = deque(runs)
        self.jobs, self.finish, self.command = jobs, finish, command
        self.threads = threads or max(1, available_cores() // jobs)
        self.seconds = dict(seconds or {})
        self.children: list[Child] = []
        self.done: list[Run] = []
        #: run name -> what went wrong
        self.failed: dict[str, str] = {}
        self.title, self.total = title, len(runs)
        self.display = Display()

    def work(self) -> None:
        """Train all runs.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM, after every process has saved its state and ended.
        """
        old = signal.signal(signal.SIGTERM, _raise_interrupt)
        try:
            while self.waiting or self.children:
                while self.waiting and len(self.children) < self.jobs:
                    self._start(self.waiting.popleft())
                self._collect()
                self.display.show(self._lines())
                time.sleep(0.2)
        except KeyboardInterrupt:
            self._stop()
            raise
        finally:
            self.display.close()
            signal.signal(signal.SIGTERM, old)

    def _start(self, run: Run) -> None:
        held = lock(run)
        if held is None:
            self._fail(run, f'another queue is at it now ({run.work_dir})')
            return
        with held:
            if run.overwrite:
                # Else the report of the run that is removed would pass for this one's.
                (run.work_dir / 'metrics.json').unlink(missing_ok=True)
            with open(run.log, 'ab') as log:
                start = log.tell()
                # In a session of its own: a Ctrl-C in the terminal reaches it once, through the queue.
                process = subprocess.Popen(self.command(run), stdin=subprocess.DEVNULL, stdout=log,
                                           stderr=subprocess.STDOUT, start_new_session=True,
                                           env=self._environment(), pass_fds=[held.fileno()])
        self.children.append(Child(run, process, start, time.monotonic()))
        self.display.say(f'{run.name}: started in {run.work_dir}')

    def _environment(self) -> dict[str, str]:
        package = str(Path(__file__).resolve().parents[3])
        path = [package, *filter(None, [os.environ.get('PYTHONPATH')])]
        return {**os.environ, 'OMP_NUM_THREADS': str(self.threads), 'PYTHONPATH': os.pathsep.join(path)}

    def _collect(self) -> None:
        for child in [c for c in self.children if c.process.poll() is not None]:
            self.children.remove(child)
            seconds = time.monotonic() - child.started
            if child.process.returncode:
                tail = '\n'.join('    ' + line for line in child.text().rstrip().splitlines()[-15:])
                self._fail(child.run, f'exit status {child.process.returncode}; the end of {child.run.log}:\n{tail}')
                continue
            try:
                self.finish(child.run, seconds)
            except ValueError as error:
                self._fail(child.run, str(error))
                continue
            self.done.append(child.run)
            self.seconds.setdefault(child.run.arm.name, seconds)
            self.display.say(f'{child.run.name}: done in {duration(seconds)}')

    def _fail(self, run: Run, why: str) -> None:
        self.failed[run.name] = why
        self.display.say(f'{run.name}: FAILED: {why}')

    def _stop(self) -> None:
        """Ask every process to save and end, and wait; a second Ctrl-C ends them at once."""
        self.display.say(f'Stopping {len(self.children)} runs; they finish their iteration and save '
                         '(Ctrl-C again: at once).')
        for _ in range(2):
            for child in self.children:
                if child.process.poll() is None:
                    child.process.send_signal(signal.SIGINT)
            try:
                for child in self.children:
                    child.process.wait()
                break
            except KeyboardInterrupt:
                continue
        # One that ended well just now needs no second run.
        for child in self.children:
            if child.process.poll() == 0:
                self.finish(child.run, time.monotonic() - child.started)

    def _lines(self) -> list[str]:
        left = self.seconds_left()
        counts = [f'{len(self.done)} of {self.total} runs done', f'{len(self.children)} running']
        counts += [f'{len(self.failed)} failed'] if self.failed else []
        counts += [f'about {duration(left)} left'] if left is not None else []
        width = max((len(child.run.name) for child in self.children), default=0)
        return [f'{self.title}: ' + ', '.join(counts),
                *(f'  {child.run.name:{width}}  {child.line()}' for child in self.children)]

    def seconds_left(self) -> float | None:
        """Estimate from the runs of each arm so far; None before there is anything to go by."""
        known = dict(self.seconds)
        running = []
        for child in self.children:
            progress, left = child.progress(), child.seconds_left()
            if progress is None or left is None:
                left = known.get(child.run.arm.name)
            else:
                known.setdefault(child.run.arm.name, progress[1] / progress[2])
            running.append(left)
        if not known:
            return None
        usual = sum(known.values()) / len(known)
        total = sum(usual if left is None else left for left in running)
        total += sum(known.get(run.arm.name, usual) for run in self.waiting)
        longest = max((left for left in running if left is not None), default=0.0)
        return max(total / self.jobs, longest)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _raise_interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt
