"""The dynamic programme with the ages of memories against every sequence of actions."""

import itertools

import numpy as np
import pytest

from slimdiff.calibration.actions import FEATURES, PREDICTION
from slimdiff.calibration.frontier import Option, additive_error, every, frontier, prefix, rivals

BOTH = frozenset({PREDICTION, FEATURES})
NONE = frozenset()


def options(seed, steps, ages, forbidden=0.1):
    rng = np.random.default_rng(seed)

    def error(needs):
        table = rng.random((steps, ages)).round(3) if needs else np.repeat(rng.random((steps, 1)).round(3), ages, 1)
        return np.where(rng.random(table.shape) < forbidden, np.inf, table)

    return {'full': Option('full', np.zeros((steps, ages)), 7, None, BOTH),
            'prediction': Option('prediction', error(True), 0, PREDICTION, NONE),
            'features': Option('features', error(True), 3, FEATURES),
            'small': Option('small', error(False), 2)}


def all_sequences(known, steps, ages):
    """(cost, error, actions) of every sequence that is allowed."""
    found = []
    for actions in itertools.product(known, repeat=steps):
        try:
            error = additive_error(actions, known, ages)
        except ValueError:
            continue
        if np.isfinite(error):
            found.append((sum(known[name].cost for name in actions), error, actions))
    return found


def hand_error(actions, known, ages):
    """The rules, spelt out: what a step reuses is as old as the number of steps since something filled it."""
    filled, total = {}, 0.0
    for step, name in enumerate(actions):
        option = known[name]
        age = 1
        if option.needs:
            if option.needs not in filled or step - filled[option.needs] > ages:
                return None
            age = step - filled[option.needs]
        total += option.error[step, age - 1]
        filled |= dict.fromkeys(option.fills, step)
    return total


@pytest.mark.parametrize('seed', range(3))
def test_ages_are_steps_since_the_memory_was_filled(seed):
    known = options(seed, 5, 2, forbidden=0)
    for actions in itertools.product(known, repeat=5):
        wanted = hand_error(actions, known, 2)
        if wanted is None:
            with pytest.raises(ValueError, match='nothing of an age up to 2 to reuse'):
                additive_error(actions, known, 2)
        else:
            assert additive_error(actions, known, 2) == pytest.approx(wanted)


@pytest.mark.parametrize('seed', range(4))
def test_the_optimum_of_every_budget_is_that_of_brute_force(seed):
    steps, ages = 6, 3
    known = options(seed, steps, ages)
    sequences = all_sequences(known, steps, ages)
    found = frontier(list(known.values()), ages, unit=1)
    for budget in range(steps * 7 + 1):
        within = [error for cost, error, _ in sequences if cost <= budget]
        actions = found.within(budget)
        if not within:
            assert actions is None
            continue
        assert additive_error(actions, known, ages) == pytest.approx(min(within))
        assert sum(known[name].cost for name in actions) <= budget
    assert (np.diff(found.costs) > 0).all() and (np.diff(found.errors) < 0).all()
    # Each point's numbers are those of its sequence.
    for point in range(len(found.costs)):
        actions = found.actions(point)
        assert found.errors[point] == pytest.approx(additive_error(actions, known, ages))
        assert found.costs[point] == sum(known[name].cost for name in actions)


def test_costs_are_rounded_up():
    """A plan never costs more than its budget, whatever the grid."""
    known = options(0, 8, 3)
    known['small'] = Option('small', known['small'].error, 2.37)
    found = frontier(list(known.values()), 3, unit=0.7)
    for budget in np.linspace(3, 56, 30):
        actions = found.within(budget)
        assert actions is None or sum(known[name].cost for name in actions) <= budget


@pytest.mark.parametrize('steps, units', [(50, 100), (100, 100), (400, 25)])
def test_the_grid_of_long_samplings_is_coarser(steps, units):
    known = options(0, steps, 1, forbidden=0)
    found = frontier(list(known.values()), 1)
    assert found.grid.max() == units and found.links.shape == (steps, 4, min(100 * steps, 10_000) + 1)
    assert sum(known[name].cost for name in found.within(0.3 * 7 * steps)) <= 0.3 * 7 * steps


def test_nothing_allowed():
    nothing = Option('full', np.full((3, 1), np.inf), 1, None, BOTH)
    with pytest.raises(ValueError, match='no sequence of actions is allowed'):
        frontier([nothing], 1)


def test_rivals_are_the_nearest_below_the_budget():
    known = options(0, 12, 4, forbidden=0)
    assert every(3, 'x', 7) == ('full', 'x', 'x', 'full', 'x', 'x', 'full')
    assert prefix('x', 2, 4) == ('x', 'x', 'full', 'full')
    found = rivals(known, 12, 0.5 * 84, 4)
    assert found['every 2 (prediction)'] == every(2, 'prediction', 12)
    assert not any('features' in label for label in found)  # 7 + 4 x 3 of 35: never at half the cost
    assert found['first 9 (small)'] == prefix('small', 9, 12)  # 18 + 21 <= 42 < 16 + 28
    for actions in found.values():
        assert sum(known[name].cost for name in actions) <= 42


def test_equal_intervals_may_be_longer_than_was_measured():
    """The calibration had no plan at a fifth of the time that the line at every sixth step beat."""
    known = options(0, 12, 2, forbidden=0)
    found = rivals(known, 12, 0.2 * 84, 11)
    assert found['every 6 (prediction)'] == ('full', *['prediction'] * 5) * 2
    error = known['prediction'].error
    wanted = sum(error[start + age, min(age, 2) - 1] for start in (0, 6) for age in range(1, 6))
    assert additive_error(found['every 6 (prediction)'], known, 12) == pytest.approx(wanted)
