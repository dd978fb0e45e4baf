"""What a work dir holds: the run that is asked for, finished or begun, or another one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from slimdiff.checkpoint.files import list_checkpoints
from studies.reproduce.experiment import Arm
from studies.reproduce.fingerprint import differences, relevant
from studies.reproduce.results import run_result


@dataclasses.dataclass
class StudyRun:
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
    """``state`` is empty, begun, finished or other (``why``)."""
    state: str
    why: str = ''


def inspect(run: StudyRun, work_dir: Path) -> Content:
    """Look into a work dir without touching it."""
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
    return Content('begun')


def adopt(run: StudyRun, folder: Path) -> Content:
    """Make ``folder/<arm>-seed<k>`` the run's work dir if this very run lies there; says what was found."""
    names = [run.name] + ([run.arm.name] if len(run.arm.seeds) == 1 else [])
    found = Content('empty')
    for work_dir in (folder / name for name in names):
        found = inspect(run, work_dir)
        if found.state in ('begun', 'finished'):
            run.work_dir, run.adopted = work_dir.resolve(), True
        if found.state != 'empty':
            break
    return found
