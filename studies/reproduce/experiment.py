"""What an experiment is: arms (configs with options and seeds), the figures compared, and how they are shown."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NAME = re.compile(r'[\w.+-]+')
REPORTS = ('table', 'profile')


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way of training, to be repeated for several seeds.

    Args:
        name: names its files, so letters, digits and ``. + - _`` only.
        config: as ``tools/train.py`` takes it.
        options: ``--cfg-options`` of the arm: dotted keys and values.
        flags: further flags of ``tools/train.py``, such as ``--amp``.
        seeds: of training; the same seed gives every arm the same order of the data, timesteps and noise.
        label: in tables and figures; the name by default.
    """
    name: str
    config: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    flags: Sequence[str] = ()
    seeds: Sequence[int] = (0, )
    label: str = ''

    @property
    def title(self) -> str:
        return self.label or self.name

    def run_name(self, seed: int) -> str:
        return f'{self.name}-seed{seed}'

    def arguments(self, seed: int, work_dir: str | Path) -> list[str]:
        """Arguments of ``slimdiff train`` for one run, which resumes if it has begun."""
        options = {'randomness.seed': seed, **self.options}
        return [self.config, '--work-dir', str(work_dir), '--resume', *self.flags,
                '--cfg-options', *(f'{key}={option_text(value)}' for key, value in options.items())]


def option_text(value: Any) -> str:
    """A value as ``--cfg-options`` reads it: a string as it is unless it reads as something else."""
    from slimdiff.cli.common import value_of
    return value if isinstance(value, str) and value_of(value) == value else repr(value)


@dataclasses.dataclass(frozen=True)
class Column:
    """A figure of a run, or the weighted mean of several.

    Args:
        title: in tables.
        figures: name in ``metrics.json`` -> weight.
        scale: multiplies what is shown (1000 for small errors).
        better: ``lower``, or ``zero`` for a signed distance.
    """
    title: str
    figures: Mapping[str, float]
    scale: float = 1.0
    better: str = 'lower'

    def value(self, final: Mapping[str, float]) -> float | None:
        """The figure of one run; None if the run did not measure it."""
        if any(name not in final for name in self.figures):
            return None
        return sum(weight * final[name] for name, weight in self.figures.items()) / sum(self.figures.values())

    def shown(self, value: float | None, digits: int = 4) -> str:
        return '-' if value is None else f'{value * self.scale:.{digits}g}'


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Arms and what is compared between them.

    Args:
        name: names the results' folder, the report and the figure.
        title: of the figure.
        arms: in the order of the table; every arm's first seed is run before any second one.
        columns: the first one is the main figure.
        baseline: name of the arm that others are compared with, seed by seed.
        report: ``table`` (arms by columns, and a panel a column), or ``profile``: also the error by noise level and
            band (``layout['edges']``: timestep edges of each arm, where they are not the metric's own).
        layout: what the report needs to know further.
        floor: also measure real images against real ones, with the baseline's data and metrics.
        follow_up: arm -> arguments of ``slimdiff compare_allocations``, with which the runs of that arm are followed
            up; ``{arm}`` in them is the checkpoint of another arm with the same seed.
    """
    name: str
    title: str
    arms: Sequence[Arm]
    columns: Sequence[Column]
    baseline: str
    report: str = 'table'
    layout: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    floor: bool = True
    follow_up: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        for name in [self.name, *names]:
            if not NAME.fullmatch(name):
                raise ValueError(f"Experiment {self.name}: the name '{name}' may have letters, digits, '.', '+', '-' "
                                 "and '_' only: files are named after it.")
        if len(set(names)) < len(names):
            raise ValueError(f'Experiment {self.name}: two arms have the same name, in {", ".join(names)}.')
        if self.baseline not in names:
            raise ValueError(f"Experiment {self.name}: the baseline '{self.baseline}' is none of its arms: "
                             f'{", ".join(names)}.')
        for name in self.follow_up:
            self.arm(name)
        if self.report not in REPORTS:
            raise ValueError(f"Experiment {self.name}: report '{self.report}' must be one of {', '.join(REPORTS)}.")

    def arm(self, name: str) -> Arm:
        """The arm of that name.

        Raises:
            ValueError: there is none; lists those there are.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise ValueError(f"Experiment {self.name} has no arm '{name}'. It has: {', '.join(a.name for a in self.arms)}.")

    def runs(self, arms: Sequence[str] | None = None, seeds: Sequence[int] | None = None) -> list[tuple[Arm, int]]:
        """(arm, seed) in the order of the queue: seed by seed, so that an interrupted study is balanced.

        Args:
            arms, seeds: leave the others out.
        """
        chosen = [self.arm(name) for name in arms] if arms else list(self.arms)
        longest = max(len(arm.seeds) for arm in chosen)
        return [(arm, arm.seeds[i]) for i in range(longest) for arm in chosen
                if i < len(arm.seeds) and (seeds is None or arm.seeds[i] in seeds)]

    @classmethod
    def from_json(cls, path: str | Path) -> Experiment:
        """Read an experiment from a file with the fields of this class.

        Raises:
            ValueError: the file is not there, is not JSON, or has a field that there is not.
        """
        try:
            fields = json.loads(Path(path).read_text(encoding='utf-8'))
            arms = [Arm(**arm) for arm in fields.pop('arms')]
            columns = [Column(**column) for column in fields.pop('columns')]
            return cls(arms=arms, columns=columns, **fields)
        except (OSError, json.JSONDecodeError, TypeError, KeyError) as error:
            raise ValueError(f'{path} is not the description of an experiment (see studies.reproduce.'
                             f'experiment): {type(error).__name__}: {error}') from error
