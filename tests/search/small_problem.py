"""A search problem that can be enumerated: an additive table, and interactions that it can't see."""

import itertools
import math

import numpy as np

from slimdiff.search import Evaluation, Genome, NetworkCosts, SearchSpace

WIDTHS = (.25, .5, .75, 1.)
COSTS = NetworkCosts({.25: 7., .5: 26., .75: 57., 1.: 100.})


class Table:
    """An additive evaluator: what each cell adds at each width, larger at the clean end, as measured on networks."""

    def __init__(self, space, seed=0):
        rng = np.random.default_rng(seed)
        shape = np.array([1., .45, .15, 0.])[:len(space.runs)]
        scale = np.exp(np.linspace(-2, 1.5, space.num_cells)) + rng.uniform(0, 1.5, space.num_cells)
        self.values = scale[:, None] * shape + rng.uniform(0, .1, (space.num_cells, 1)) * (shape > 0)
        self.space = space

    def additive(self, space):
        return self.values.tolist()

    def quality(self, genome):
        return float(sum(self.values[c, a] for c, a in enumerate(self.space.per_cell(genome))))


class Truth(Table):
    """The table plus what depends on neighbours: a change of width costs, and an early error is carried on."""

    def quality(self, genome):
        cells = self.space.per_cell(genome)
        total, carried = 0., 0.
        for c, a in enumerate(cells):
            carried = .6 * carried + self.values[c, a]
            total += carried
        return total + .2 * sum(abs(a - b) for a, b in itertools.pairwise(cells))


def judge(space, evaluator, genome):
    cells = space.per_cell(genome)
    macs = sum(COSTS.macs_of[space.runs[cells[cell]]] for cell in space.cell_of_step)
    quality = evaluator.quality(genome)
    return Evaluation(quality, macs, failed=not math.isfinite(quality))


def make_space(cells=12, segments=4, widths=WIDTHS):
    return SearchSpace(widths, segments, 1000, [1000 * (cells - i) // cells - 1 for i in range(cells)])


def run(searcher, space, evaluator):
    """Ask and tell until it is done; returns the searcher."""
    while not searcher.done:
        genomes = searcher.ask()
        searcher.tell(genomes, [judge(space, evaluator, genome) for genome in genomes])
    return searcher


def vectorised(space, evaluator):
    """(macs, quality) of every allocation of a space."""
    genomes = list(space.enumerate())
    cells = np.array([space.per_cell(g) for g in genomes])
    macs = np.array([COSTS.macs_of[w] for w in space.runs])[cells].sum(1)
    each = evaluator.values[np.arange(space.num_cells), cells]
    if type(evaluator) is Table:
        return genomes, macs, each.sum(1)
    total, carried = np.zeros(len(cells)), np.zeros(len(cells))
    for c in range(space.num_cells):
        carried = .6 * carried + each[:, c]
        total += carried
    return genomes, macs, total + .2 * np.abs(np.diff(cells, axis=1)).sum(1)


__all__ = ['COSTS', 'WIDTHS', 'Genome', 'Table', 'Truth', 'judge', 'make_space', 'run', 'vectorised']
