"""Which action each step takes, for all budgets at once: dynamic programming whose state is how old the memories are.

Pure functions of numbers. A step may reuse what an earlier one has left, at an error that grows with its age. So the
state between two steps is the age of the prediction and of the features, and the rest is a shortest path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from slimdiff.calibration.actions import FEATURES, PREDICTION

#: units of cost of a whole sampling, at most: memory is proportional to it and to the steps
WIDTH = 10_000


@dataclasses.dataclass(frozen=True)
class Option:
    """What a step may do.

    Args:
        name: of the action.
        error: (steps, ages), what it adds to the error of the result at each step, by the age of the memory that it
            reuses, 1 first; an action that reuses none has all columns alike. Infinite where it is forbidden.
        cost: of a step, in any unit.
        needs: the memory that it reuses: ``'prediction'``, ``'features'`` or None.
        fills: the memories that are fresh after it.
    """
    name: str
    error: np.ndarray
    cost: float
    needs: str | None = None
    fills: Collection[str] = frozenset({PREDICTION})


#: ages of (prediction, features) before a step; 0 is none
State = tuple[int, int]


def following(state: State, option: Option, ages: int) -> State | None:
    """The state after a step; None if the option's memory is not there."""
    if option.needs is not None and not age_of(state, option):
        return None
    return tuple(1 if memory in option.fills else (age + 1 if 0 < age < ages else 0)
                 for memory, age in zip((PREDICTION, FEATURES), state))  # type: ignore[return-value]


def age_of(state: State, option: Option) -> int:
    """The age of the memory that an option reuses; 1 for an option that reuses none."""
    return 1 if option.needs is None else state[(PREDICTION, FEATURES).index(option.needs)]


def states_and_options(actions: Sequence[str], options: Mapping[str, Option],
                       ages: int) -> Iterator[tuple[int, State, Option]]:
    """(step, state before it, option) of a sequence of actions.

    Raises:
        ValueError: a step that has nothing to reuse.
    """
    state: State | None = (0, 0)
    for step, name in enumerate(actions):
        before, state = state, following(state, options[name], ages)
        if state is None:
            raise ValueError(f'step {step} is to take {name}, but there is nothing of an age up to {ages} to reuse.')
        yield step, before, options[name]


def additive_error(actions: Sequence[str], options: Mapping[str, Option], ages: int) -> float:
    """The sum of the errors of a sequence of actions; a memory older than was measured counts like the oldest."""
    return float(sum(option.error[step, min(age_of(state, option), option.error.shape[1]) - 1]
                     for step, state, option in states_and_options(actions, options, ages)))


@dataclasses.dataclass(frozen=True)
class Frontier:
    """The best sequence of actions for every budget.

    Args:
        costs, errors: of each point, by rising cost and falling error.
        links: (steps, states, costs) option and state before it, as one number.
        ends: of each point, the state and the cost in grid units at the end.
    """
    costs: np.ndarray
    errors: np.ndarray
    options: tuple[Option, ...]
    grid: np.ndarray
    links: np.ndarray
    ends: tuple[tuple[int, int], ...]

    def actions(self, point: int) -> tuple[str, ...]:
        """The sequence of a point."""
        state, cost = self.ends[point]
        found = []
        for layer in self.links[::-1]:
            state, option = divmod(int(layer[state, cost]), len(self.options))
            found.append(self.options[option].name)
            cost -= self.grid[option]
        return tuple(reversed(found))

    def within(self, budget: float) -> tuple[str, ...] | None:
        """The best sequence that costs at most ``budget``; None if nothing does."""
        point = int(np.searchsorted(self.costs, budget * (1 + 1e-9), side='right')) - 1
        return None if point < 0 else self.actions(point)


def frontier(options: Sequence[Option], ages: int, unit: float | None = None) -> Frontier:
    """The exact minimum of the additive error for every budget.

    Args:
        options: what a step may do.
        ages: of a memory, at most.
        unit: costs are rounded up to multiples of it, so that what is within a budget stays so; by default 1/100 of the
            highest cost, more for more than 100 steps. The minimum is exact for costs that are multiples.

    Raises:
        ValueError: no sequence is allowed.
    """
    options = tuple(options)
    steps = len(options[0].error)
    unit = unit or max(option.cost for option in options) / max(1, min(100, WIDTH // steps))
    grid = np.array([int(np.ceil(option.cost / unit - 1e-9)) for option in options])
    states = [(p, f) for p in range(ages + 1) for f in range(ages + 1)]
    place = {state: i for i, state in enumerate(states)}
    moves = [(i, o, place[after]) for i, state in enumerate(states) for o, option in enumerate(options)
             if (after := following(state, option, ages)) is not None]
    width = steps * int(grid.max()) + 1
    best = np.full((len(states), width), np.inf)
    best[place[0, 0], 0] = 0
    links = np.zeros((steps, len(states), width), np.int16)
    for step in range(steps):
        new = np.full_like(best, np.inf)
        for before, o, after in moves:
            error = options[o].error[step, age_of(states[before], options[o]) - 1]
            if not np.isfinite(error) or not np.isfinite(best[before]).any():
                continue
            reached = best[before, :width - grid[o]] + error
            target = new[after, grid[o]:]
            better = reached < target
            target[better] = reached[better]
            links[step, after, grid[o]:][better] = before * len(options) + o
        best = new
    state_of = best.argmin(0)
    least = best.min(0)
    kept = np.flatnonzero(least < np.concatenate([[np.inf], np.minimum.accumulate(least)[:-1]]))
    if not len(kept):
        raise ValueError('frontier: no sequence of actions is allowed.')
    return Frontier(kept * unit, least[kept], options, grid, links, tuple((int(state_of[c]), int(c)) for c in kept))


def every(interval: int, name: str, steps: int) -> tuple[str, ...]:
    """The full network at every ``interval``-th step and ``name`` at the others: DeepCache's uniform schedule.

    Where there is no line yet to extrapolate, the prediction is reused.
    """
    first = PREDICTION if name == 'extrapolate' else name
    return tuple('full' if step % interval == 0 else first if step < interval else name for step in range(steps))


def prefix(name: str, count: int, steps: int) -> tuple[str, ...]:
    """``name`` at the first ``count`` steps, the full network at the others (T-Stitch, Pan et al. 2024)."""
    return (name, ) * count + ('full', ) * (steps - count)


def rivals(options: Mapping[str, Option], steps: int, budget: float,
           ages: int) -> dict[str, tuple[str, ...]]:
    """What a user would try by hand, as close below ``budget`` as it goes: uniform intervals, in which something is
    reused for at most ``ages`` steps, and prefixes."""
    found = {}
    full = options['full'].cost
    for name, option in options.items():
        if name == 'full':
            continue
        if option.needs is not None:
            tries = [(f'every {n} ({name})', every(n, name, steps)) for n in range(2, ages + 2)]
        else:
            tries = [(f'first {n} ({name})', prefix(name, n, steps)) for n in range(1, steps + 1)]
        fitting = [(label, actions) for label, actions in tries
                   if sum(full if a == 'full' else option.cost for a in actions) <= budget * (1 + 1e-9)]
        if fitting:
            label, actions = fitting[0]
            found[label] = actions
    return found
