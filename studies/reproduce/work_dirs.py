"""What a work dir holds: the run that is asked for, finished or begun, or another one."""

from __future__ import annotations

import dataclasses
import fcntl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from mmengine.config import Config

from slimdiff.checkpoint.files import list_checkpoints
from studies.reproduce.experiment import Arm
from studies.reproduce.fingerprint import differences, relevant
from studies.reproduce.results import run_result

#: a run by hand logs at least this often (seconds)
QUIET = 120.0


@dataclasses.dataclass
class Run:
    """One run of the queue.

    Args:
        arm, seed: what it is.
        work_dir: where it trains.
        result: its JSON file.
        resolved: what of its config decides the figures, see :func:`~.fingerprint.relevant`.
        max_iters: after which it is finished.
        adopted: the work dir was made by hand.
        overwrite: the work dir holds a run of another config, to be removed.
        teacher_cache: where its teacher's answers are kept; nothing for a run without a teacher.
    """
    arm: Arm
    seed: int
    work_dir: Path
    result: Path
    resolved: Mapping[str, Any]
    max_iters: int | None = None
    adopted: bool = False
    overwrite: bool = False
    teacher_cache: Path | None = None

    @property
    def name(self) -> str:
        return self.arm.run_name(self.seed)

    @property
    def log(self) -> Path:
        return self.work_dir.with_name(f'{self.work_dir.name}.log')

    def arguments(self) -> list[str]:
        """Arguments of ``slimdiff train``."""
        words = self.arm.arguments(self.seed, self.work_dir)
        if self.teacher_cache and 'model.teacher.checkpoint' in self.resolved:
            words.append(f'model.teacher.cache={self.teacher_cache.resolve()}')
        return ['--overwrite' if word == '--resume' and self.overwrite else word for word in words]


@dataclasses.dataclass(frozen=True)
class Content:
    """``state`` is empty, begun, finished, busy (something writes there now) or other (``why``)."""
    state: str
    why: str = ''


def inspect(run: Run, work_dir: Path, by_hand: bool = False) -> Content:
    """Look into a work dir without touching it; one made ``by_hand`` may be busy without a :func:`lock`."""
    checkpoints = list_checkpoints(work_dir) if work_dir.is_dir() else []
    report = work_dir / 'metrics.json'
    if not checkpoints and not report.is_file() and not any(work_dir.glob('*.py')):
        return Content('empty')
    dumped = work_dir / Path(run.arm.config).with_suffix('.py').name
    if not dumped.is_file():
        return Content('other', f'{work_dir} has no {dumped.name}')
    config = Config.fromfile(dumped)
    if config.get('randomness', {}).get('seed') != run.seed:
        return Content('other', f"{work_dir} has seed {config.get('randomness', {}).get('seed')}, not {run.seed}")
    changed = differences(relevant(config.to_dict()), run.resolved)
    if changed:
        return Content('other', f'{work_dir} was trained with another config: {changed}')
    # A report older than a checkpoint is that of an earlier run.
    fresh = report.is_file() and all(report.stat().st_mtime >= file.stat().st_mtime for file in checkpoints)
    if fresh and run_result(work_dir, run.resolved, run.seed, run.max_iters) is not None:
        return Content('finished')
    if by_hand and time.time() - newest_change(work_dir) < QUIET and not interrupted(work_dir):
        return Content('busy', f'{work_dir} is being written')
    return Content('begun')


def newest_change(work_dir: Path) -> float:
    """Time of the last change of a file below ``work_dir``; 0 without files."""
    return max((file.stat().st_mtime for file in work_dir.rglob('*') if file.is_file()), default=0.0)


def interrupted(work_dir: Path) -> bool:
    """Whether the newest log says that its run was stopped in order: it need not be waited for."""
    logs = sorted(work_dir.glob('*/*.log'), key=lambda file: file.stat().st_mtime)
    return bool(logs) and 'Go on with --resume' in logs[-1].read_text(encoding='utf-8', errors='replace')[-2000:]


def adopt(run: Run, folder: Path) -> Content:
    """Make ``folder/<arm>-seed<k>`` the run's work dir if this very run lies there; says what was found."""
    names = [run.name] + ([run.arm.name] if len(run.arm.seeds) == 1 else [])
    found = Content('empty')
    for work_dir in (folder / name for name in names):
        found = inspect(run, work_dir, by_hand=True)
        if found.state in ('begun', 'finished', 'busy'):
            run.work_dir, run.adopted = work_dir.resolve(), True
        if found.state != 'empty':
            break
    return found


def lock(run: Run) -> IO[str] | None:
    """A lock on the run, given on to the training process; None where another queue has it.

    It lasts as long as any process has the file open: a queue that was killed leaves it to its children.
    """
    path = run.work_dir.with_name(f'.{run.work_dir.name}.lock')
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, 'w', encoding='utf-8')  # noqa: SIM115 (the caller closes it)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
