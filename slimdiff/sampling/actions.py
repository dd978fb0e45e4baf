"""What a step-aware network may do at a denoising step: run at a width and depth, or reuse what the last run left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from slimdiff.spelling import did_you_mean

REUSABLE = ('prediction', 'features')
T = TypeVar('T')


@dataclass(frozen=True, order=True)
class Run:
    """Run the network at ``width``, a share of its channels in (0, 1], and ``depth``, a share of its blocks.

    What a network can be run at, what it costs there and the network of that size alone are kept by such a run.
    """

    width: float
    depth: float = 1.0

    def __post_init__(self) -> None:
        for name, parts in (('width', 'channels'), ('depth', 'blocks')):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
                raise ValueError(f'Run: {name}={value!r} must be a number in (0, 1], the fraction of {parts} '
                                 'that runs.')
            object.__setattr__(self, name, float(value))

    @classmethod
    def of(cls, value: Run | float) -> Run:
        """A run, or the one of a width at full depth."""
        return value if isinstance(value, cls) else cls(value)

    def __str__(self) -> str:
        return f'width {self.size}'

    @classmethod
    def parse(cls, size: str, known: Iterable[Run] = ()) -> Run:
        """The reverse of :attr:`size`, which is rounded: the ``known`` run of that size, if there is one."""
        width, _, depth = size.partition(' depth ')
        return next((run for run in known if run.size == size), None) or cls(float(width), float(depth or 1))

    @property
    def share(self) -> float:
        """Of channels and blocks that run: the height of a run in a picture."""
        return self.width * self.depth

    @property
    def size(self) -> str:
        """In short: ``0.5``, or ``0.5 depth 0.75``."""
        return f'{self.width:g}' + ('' if self.depth == 1 else f' depth {self.depth:g}')


#: the whole network
FULL = Run(1.0)


class ByRun(dict[Run, T]):
    """Values by run; a width stands for the run at full depth."""

    def __init__(self, values: Mapping[Run | float, T]) -> None:
        super().__init__((Run.of(key), value) for key, value in values.items())

    def __missing__(self, key: float) -> T:
        if isinstance(key, Run):
            raise KeyError(key)
        return self[Run(key)]


@dataclass(frozen=True)
class Reuse:
    """Do not run the network: take what the last run left.

    ``'prediction'`` is that run's output, at no cost. ``'features'`` are its deep features: only the shallow layers
    run again (DeepCache, Ma et al., CVPR 2024).
    """

    what: str = 'prediction'

    def __post_init__(self) -> None:
        if self.what not in REUSABLE:
            raise ValueError(f'Reuse: what={self.what!r} is unknown; choose one of {", ".join(REUSABLE)}.'
                             f'{did_you_mean(self.what, REUSABLE)}')

    def __str__(self) -> str:
        return f'reuse {self.what}'


Action = Run | Reuse


def action_from_dict(data: Mapping[str, Any]) -> Action:
    """``{'width': 0.5}``, ``{'width': 0.5, 'depth': 0.75}`` or ``{'reuse': 'features'}`` as an action.

    Raises:
        ValueError: both or neither of the keys, a depth without a width, or a value out of range.
    """
    if ('width' in data) == ('reuse' in data) or ('depth' in data and 'reuse' in data):
        raise ValueError(f"An action is either 'width' (and 'depth') or 'reuse' (prediction, features), got "
                         f'{dict(data)}.')
    return Run(data['width'], data.get('depth', 1.0)) if 'width' in data else Reuse(data['reuse'])


def action_to_dict(action: Action) -> dict[str, Any]:
    """The reverse of :func:`action_from_dict`."""
    if isinstance(action, Reuse):
        return {'reuse': action.what}
    return {'width': action.width} | ({} if action.depth == 1 else {'depth': action.depth})
