"""What is to be done of an experiment: which runs have results, which are stale, which must be trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.reproduce.experiment import Arm, Experiment
from studies.reproduce.results import read_result, staleness
from studies.reproduce.work_dirs import StudyRun, adopt, inspect

#: of these runs the queue trains (or only collects) some; the others are left
TO_TRAIN = ('missing', 'begun', 'redo')


@dataclasses.dataclass
class Planned:
    """A run and its state: done, stale, collect (trained, not yet written up), begun, missing, redo, blocked."""
    run: StudyRun
    state: str
    why: str = ''
    result: dict[str, Any] | None = None


def plan(experiment: Experiment, runs: Sequence[tuple[Arm, int]], results: Path, work_dir: Path,
         resolve: Callable[[list[str]], Mapping[str, Any]], flatten: Callable[[Mapping[str, Any]], dict[str, Any]],
         adopt_from: Path | None = None, redo: bool = False) -> list[Planned]:
    """Look at results and work dirs; changes nothing.

    Args:
        experiment, runs: what is asked for.
        results, work_dir: folders; the experiment's own lie below them.
        resolve: arguments of ``slimdiff train`` -> the config that it would train.
        flatten: what of it matters.
        adopt_from: folder of work dirs that were made by hand.
        redo: stale results are made again, and work dirs of another config overwritten.
    """
    planned = []
    for arm, seed in runs:
        run_dir = work_dir / experiment.name / arm.run_name(seed)
        config = resolve(arm.arguments(seed, run_dir))
        run = StudyRun(arm, seed, run_dir, results / experiment.name / f'{arm.run_name(seed)}.json', flatten(config),
                  (config.get('train_cfg') or {}).get('max_iters'))
        planned.append(_state(run, adopt_from, redo))
    return planned


def _state(run: StudyRun, adopt_from: Path | None, redo: bool) -> Planned:
    result = read_result(run.result)
    if result is not None:
        why = staleness(result, run.resolved)
        if not why:
            return Planned(run, 'done', result=result)
        if not redo:
            return Planned(run, 'stale', why, result)
    note = ''
    if adopt_from is not None:
        found = adopt(run, adopt_from)
        note = f'not adopted: {found.why}' if found.state == 'other' else ''
    content = inspect(run, run.work_dir)
    if content.state == 'finished':
        return Planned(run, 'collect', result=result)
    if content.state == 'other' and not redo:
        return Planned(run, 'blocked', content.why + ' (--redo removes that run)', result)
    run.overwrite = content.state == 'other'
    state = 'redo' if result is not None else 'begun' if content.state == 'begun' else 'missing'
    return Planned(run, state, note, result)
