"""The search space against brute force over all step sequences."""

import itertools

import numpy as np
import pytest

from slimdiff.sampling import Reuse, Run
from slimdiff.search import Genome, SearchSpace

TIMES = [900, 700, 500, 300, 100]


def space(**kwargs):
    return SearchSpace(**{**dict(widths=(.5, 1), num_segments=3, num_train_timesteps=1000, timesteps=TIMES), **kwargs})


def brute_force(actions, widths, steps, segments):
    """All sequences of actions, one a step, that begin with a width and change less than ``segments`` times."""
    for sequence in itertools.product(range(actions), repeat=steps):
        if sequence[0] < widths and sum(a != b for a, b in itertools.pairwise(sequence)) < segments:
            yield sequence


@pytest.mark.parametrize('kwargs', [
    dict(), dict(num_segments=5), dict(num_segments=1), dict(num_segments=99),
    dict(widths=(.25, .5, 1)), dict(reuse=('prediction', )), dict(reuse=('prediction', 'features'), num_segments=4)
])
def test_enumeration_is_every_sequence_once(kwargs):
    s = space(**kwargs)
    expected = set(brute_force(len(s.actions), len(s.runs), 5, s.num_segments))
    genomes = list(s.enumerate())
    assert len(genomes) == len(set(genomes)) == s.size == len(expected)
    assert {tuple(s.per_cell(g)) for g in genomes} == expected
    assert all(s.from_cells(s.per_cell(g)) == g for g in genomes)


def test_decode():
    s = space(reuse=('prediction', ))
    for genome in s.enumerate():
        allocation = s.decode(genome)
        assert allocation.actions(TIMES) == [s.actions[i] for i in s.per_cell(genome)]
    assert s.decode(Genome((2, 3), (1, 2, 0))).actions(TIMES) == [Run(1), Run(1), Reuse(), Run(.5), Run(.5)]


def test_cells_group_steps():
    s = SearchSpace((.5, 1), 2, 1000, range(990, -1, -10), cells=4)
    assert s.size == 2 + 3 * 2 and s.cell_of_step == tuple(i // 25 for i in range(100))
    allocation = s.decode(Genome((1, ), (0, 1)))
    assert [a.width for a in allocation.actions(range(990, -1, -10))] == [.5] * 25 + [1.] * 75


def test_equal_timesteps_share_a_cell():
    """Second-order samplers call the network twice at a timestep."""
    s = SearchSpace((.5, 1), 3, 1000, [900, 500, 500, 100.7, 100.2])
    assert s.num_cells == 3 and s.cell_of_step == (0, 1, 1, 2, 2)
    assert s.size == len({s.decode(g) for g in s.enumerate()})


def test_repair_by_hand():
    s = space(widths=(.25, .5, 1), num_segments=2, reuse=('prediction', ))
    assert s.repair([], [1]) == Genome((), (1, ))
    assert s.repair([9, -3], [0, 1, 2]) == Genome((), (1, ))  # the first and the last are empty
    assert s.repair([3, 2], [0, 1, 1]) == Genome((2, ), (0, 1))
    assert s.repair([2], [3, 1]) == Genome((), (1, ))  # nothing to reuse: the next width
    assert s.repair([], [3]) == Genome((), (2, ))
    assert s.repair([2, 3], [0, 1, 2]) == Genome((3, ), (0, 2))  # the shortest goes to its longer neighbour
    assert s.repair([1, 4], [0, 1, 2]) == Genome((4, ), (1, 2))


def test_operators_stay_in_the_space():
    s = space(widths=(.25, .5, 1), num_segments=3, reuse=('features', ))
    allowed, rng = set(s.enumerate()), np.random.default_rng(0)
    genomes = [s.random(rng) for _ in range(300)]
    made = [s.crossover(*(genomes[k] for k in rng.integers(300, size=2)), rng) for _ in range(300)]
    made += [s.mutate(g, rng, 0.7) for g in genomes] + [s.mutate(g, rng) for g in made]
    assert set(genomes) <= allowed and set(made) <= allowed
    assert len(set(genomes)) > 0.2 * len(allowed)


def test_mutation_is_per_gene():
    """With probability p each of seven genes and the interval stay with 1 - p: (1 - p)^8 of all genomes do."""
    s = SearchSpace((.25, .5, .75, 1), 8, 1000, range(990, -1, -10))
    genome = Genome((20, 40, 60), (0, 2, 1, 3))
    rng = np.random.default_rng(1)
    same = np.mean([s.mutate(genome, rng, 0.1) == genome for _ in range(2000)])
    assert abs(same - 0.9**8) < 4 * (0.43 * 0.57 / 2000)**.5
    assert all(s.mutate(genome, rng, 0) == genome for _ in range(20))


def test_mutation_by_default_is_one_change():
    """A third each: a boundary moves (cells change around one edge), an action changes, an interval does."""
    s = SearchSpace((.25, .5, .75, 1), 99, 1000, range(990, -1, -10))
    genome, rng = Genome((20, 40, 60), (0, 2, 1, 3)), np.random.default_rng(1)
    cells = np.array(s.per_cell(genome))
    kinds = []
    for _ in range(600):
        child = s.mutate(genome, rng)
        changed = np.flatnonzero(np.array(s.per_cell(child)) != cells)
        assert len(changed)
        kinds.append('action' if child.boundaries == genome.boundaries else
                     'boundary' if child.actions == genome.actions else 'interval')
    # A changed action that equals a neighbour's moves boundaries, too.
    assert abs(kinds.count('boundary') - 200) < 50 and 100 < kinds.count('action') < 240


def test_crossover_takes_an_interval_of_the_other():
    s, rng = space(num_segments=5), np.random.default_rng(0)
    child = {tuple(s.per_cell(s.crossover(Genome((), (0, )), Genome((), (1, )), rng))) for _ in range(300)}
    assert child == {(0, ) * a + (1, ) * (b - a) + (0, ) * (5 - b) for a in range(5) for b in range(a + 1, 6)}


@pytest.mark.parametrize('kwargs, message', [
    (dict(widths=()), 'one or more'), (dict(num_segments=0), 'one or more'), (dict(timesteps=[1, 2]), 'must fall'),
    (dict(cells=6), r'cells=6 must lie in 1\.\.5'), (dict(reuse=('predictions', )), "Did you mean 'prediction'"),
])
def test_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        space(**kwargs)
