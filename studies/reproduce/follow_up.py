"""What comes after the training of some arms: their step allocations compared, each run by a process of its own."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slimdiff.checkpoint import write_json
from slimdiff.checkpoint.files import list_checkpoints
from studies.reproduce.experiment import Arm, Experiment, option_text
from studies.reproduce.plan import Planned
from studies.reproduce.work_dirs import StudyRun

#: what ``slimdiff compare_allocations`` writes in its work dir
FILE = 'comparison.json'


@dataclasses.dataclass
class Comparison(StudyRun):
    """A run whose network is trained, to be compared: it works in ``comparison`` inside the run's work dir.

    Args:
        trained: date of the training's result.
        checkpoint: the run's last.
        words: arguments of ``slimdiff compare_allocations`` after the checkpoint.
    """
    trained: str = ''
    checkpoint: Path = Path()
    words: Sequence[str] = ()

    def command(self) -> list[str]:
        """``slimdiff compare_allocations``, with this very Python."""
        options = [f'{key}={option_text(value)}' for key, value in self.arm.options.items()]
        return [sys.executable, '-m', 'slimdiff.cli.main', 'compare_allocations', self.arm.config,
                str(self.checkpoint), '--work-dir', str(self.work_dir), '--seed', str(self.seed), *self.words,
                *(['--cfg-options', *options] if options else [])]

    def collect(self, experiment: str) -> None:
        """Keep what was written.

        Raises:
            ValueError: it is not there.
        """
        path = self.work_dir / FILE
        if not path.is_file():
            raise ValueError(f'{self.name}: the comparison ended, but {path} is not there.')
        content = json.loads(path.read_text(encoding='utf-8'))
        content['command'] = f'python tools/analysis_tools/reproduce.py {experiment}'
        write_json(self.result, {**dict(experiment=experiment, arm=self.arm.name, seed=self.seed,
                                        trained=self.trained), **content})


def result_file(run: StudyRun) -> Path:
    """Where the comparison of a run is kept, beside its training's result."""
    return run.result.with_suffix(f'.{FILE}')


def read_comparison(planned: Planned) -> dict[str, Any] | None:
    """The comparison of a run's present network; None if there is none yet."""
    path = result_file(planned.run)
    if planned.result is None or not path.is_file():
        return None
    content = json.loads(path.read_text(encoding='utf-8'))
    return content if content.get('trained') == planned.result['date'] else None


def comparisons_of(experiment: Experiment, planned: Iterable[Planned]) -> dict[str, list[dict[str, Any]]]:
    """Arm -> the comparisons that are there, by seed."""
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in experiment.follow_up}
    for one in sorted(planned, key=lambda p: p.run.seed):
        content = read_comparison(one) if one.run.arm.name in found else None
        if content is not None:
            found[one.run.arm.name].append(content)
    return found


def to_compare(experiment: Experiment, planned: Sequence[Planned], runs: Sequence[tuple[Arm, int]] | None = None,
               say: Callable[[str], None] = print) -> list[Comparison]:
    """Comparisons that are lacking and can be made: the network, and those it is compared with, are on this machine.

    Args:
        planned: of all arms, after the training.
        runs: leave the others out.
        say: told what can't be made, and why.
    """
    checkpoints = {(p.run.arm.name, p.run.seed): newest(p) for p in planned}
    found = []
    for p in planned:
        words = experiment.follow_up.get(p.run.arm.name)
        left_out = runs is not None and (p.run.arm, p.run.seed) not in runs
        if words is None or left_out or p.result is None or read_comparison(p) is not None:
            continue
        names = {arm.name: checkpoints.get((arm.name, p.run.seed)) for arm in experiment.arms}
        lacking = [name for name, path in names.items()
                   if path is None and (name == p.run.arm.name or any(f'{{{name}}}' in word for word in words))]
        if lacking:
            say(f'{p.run.name}: not compared: that takes the checkpoint of {", ".join(lacking)} with seed '
                f'{p.run.seed}, which is not in {p.run.work_dir.parent}. One that was trained elsewhere is trained '
                f'here once its result in {p.run.result.parent} is removed.')
            continue
        fields = {field.name: getattr(p.run, field.name) for field in dataclasses.fields(StudyRun)}
        fields |= dict(work_dir=p.run.work_dir / 'comparison', result=result_file(p.run), overwrite=False)
        found.append(Comparison(**fields, trained=p.result['date'], checkpoint=names[p.run.arm.name],
                                words=[filled(word, names) for word in words]))
    return found


def newest(planned: Planned) -> Path | None:
    """The last checkpoint of a finished run; None if it isn't on this machine."""
    if planned.result is None or not planned.run.work_dir.is_dir():
        return None
    return next(iter(list_checkpoints(planned.run.work_dir)), None)


def filled(word: str, checkpoints: Mapping[str, Path | None]) -> str:
    """``{arm}`` replaced by that arm's checkpoint."""
    for name, path in checkpoints.items():
        word = word.replace(f'{{{name}}}', str(path))
    return word
