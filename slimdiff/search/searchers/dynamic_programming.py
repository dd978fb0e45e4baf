"""The exact front of an additive surrogate: every budget at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from slimdiff.registry import SEARCHERS
from slimdiff.search.budget import Budget
from slimdiff.search.costs import NetworkCosts
from slimdiff.search.evaluators.base import Evaluator
from slimdiff.search.searchers.base import Searcher
from slimdiff.search.space import Genome, SearchSpace


def additive_front(quality: Sequence[Sequence[float]], cost: Sequence[Sequence[float]],
                   num_segments: int) -> list[tuple[float, float, tuple[int, ...]]]:
    """All Pareto-optimal choices of one of W options in each of C cells, with at most ``num_segments`` runs of equals.

    Dynamic programming over cells: for every (option of the last cell, number of runs so far) the Pareto front of
    (cost, quality) of what lies before. What is not on such a front can be on no front later on, since both are sums,
    so nothing is lost.

    Args:
        quality, cost: (C, W), lower is better; an infinite or NaN quality forbids the option there.

    Returns:
        (cost, quality, option of each cell), by rising cost; of equal ones the first.

    Raises:
        ValueError: every choice is forbidden.
    """
    quality, cost = np.asarray(quality, dtype=float), np.asarray(cost, dtype=float)
    quality = np.where(np.isfinite(quality), quality, np.inf)
    cells, options = quality.shape
    runs = min(num_segments, cells)
    # Rounding must not make points: a better quality is better by this.
    finite = np.abs(np.where(np.isfinite(quality), quality, 0))
    slack = 1e-12 * finite.max(1).sum()
    # layer[w][k]: costs, qualities and where each label came from (option, runs, place) of the layer before
    empty = np.empty(0)
    layer = [[(empty, empty, np.empty((0, 3), int))] * runs for _ in range(options)]
    for w in range(options):
        if quality[0, w] < np.inf:
            layer[w][0] = (cost[0, w:w + 1], quality[0, w:w + 1], np.full((1, 3), -1))
    layers = [layer]
    for c in range(1, cells):
        before, layer = layer, [[(empty, empty, np.empty((0, 3), int))] * runs for _ in range(options)]
        for w in range(options):
            if quality[c, w] == np.inf:
                continue
            for k in range(runs):
                sources = [(w, k)] + [(v, k - 1) for v in range(options) if v != w and k > 0]
                layer[w][k] = _merge(before, sources, cost[c, w], quality[c, w], slack)
        layers.append(layer)
    last = _merge(layer, [(w, k) for w in range(options) for k in range(runs)], 0.0, 0.0, slack)
    if not len(last[0]):
        raise ValueError('additive_front: no allocation is left: in some cell no run has a finite quality.')
    return [(float(c), float(q), _trace(layers, link)) for c, q, link in zip(*last)]


def _merge(layer: list, sources: Sequence[tuple[int, int]], cost: float, quality: float,
           slack: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The front of the labels of some states of a layer, after one more step."""
    costs = np.concatenate([layer[w][k][0] for w, k in sources])
    qualities = np.concatenate([layer[w][k][1] for w, k in sources])
    links = np.concatenate([np.stack([np.full(len(layer[w][k][0]), w), np.full(len(layer[w][k][0]), k),
                                      np.arange(len(layer[w][k][0]))], 1) for w, k in sources])
    order = np.lexsort((qualities, costs))
    costs, qualities, links = costs[order], qualities[order], links[order]
    if len(costs):
        before = np.concatenate([[np.inf], np.minimum.accumulate(qualities)[:-1]])
        kept = qualities < before - slack
        costs, qualities, links = costs[kept], qualities[kept], links[kept]
    return costs + cost, qualities + quality, links


def _trace(layers: list, link: np.ndarray) -> tuple[int, ...]:
    """Follow a label back to the first cell."""
    options = []
    for layer in reversed(layers):
        w, k, place = (int(value) for value in link)
        options.append(w)
        link = layer[w][k][2][place]
    return tuple(reversed(options))


def evenly(items: Sequence[tuple[float, Genome]], points: int | None) -> list[Genome]:
    """At most ``points`` genomes of (cost, genome) in rising cost, both ends among them, spread over the costs."""
    if points is None or points >= len(items):
        return [genome for _, genome in items]
    costs = np.array([cost for cost, _ in items])
    picked: set[int] = set()
    for target in np.linspace(costs[0], costs[-1], points) if points > 1 else costs[-1:]:
        nearest = np.argsort(np.abs(costs - target), kind='stable').tolist()
        picked.add(next(i for i in nearest if i not in picked))
    return [items[i][1] for i in sorted(picked)]


@SEARCHERS.register_module()
class DynamicProgramming(Searcher):
    """The exact optimum of the additive evaluator for every budget, without evaluating a candidate.

    The first evaluator that has ``additive(space)``, such as
    :class:`~slimdiff.search.evaluators.LossGapEvaluator`, says what each cell adds at each width. The whole front is
    then asked for, so that the last evaluator of the ladder judges it, and so is the optimum for the search's budget
    where ``points`` leave it out. Reuse is not additive, and not considered.

    Args:
        points: how many of the front's allocations to ask for, evenly over the costs; all by default.
        batch_size: candidates asked for at once; all by default.

    Raises:
        ValueError: no additive evaluator among those of the search, or a number below 1.
    """

    moves_timesteps = False

    def __init__(self, points: int | None = None, batch_size: int | None = None) -> None:
        super().__init__()
        if any(number is not None and number < 1 for number in (points, batch_size)):
            raise ValueError(f'DynamicProgramming: points={points} and batch_size={batch_size} must be at least 1.')
        self.points, self.batch_size = points, batch_size
        self._surrogate: list[tuple[float, float, Genome]] | None = None

    def bind(self, space: SearchSpace, evaluators: Sequence[Evaluator] = (),
             costs: NetworkCosts | None = None) -> DynamicProgramming:
        super().bind(space, evaluators, costs)
        self._surrogate = None
        if not any(hasattr(evaluator, 'additive') for evaluator in self.evaluators):
            names = ', '.join(type(e).__name__ for e in self.evaluators) or 'none'
            raise ValueError(f'{type(self).__name__} needs an additive evaluator, such as LossGapEvaluator, first '
                             f'among search.evaluators; got {names}.')
        return self

    @property
    def surrogate_front(self) -> list[tuple[float, float, Genome]]:
        """(MACs, quality of the additive evaluator, genome) of every Pareto-optimal allocation, cheapest first."""
        if self._surrogate is None:
            evaluator = next(e for e in self.evaluators if hasattr(e, 'additive'))
            space, costs = self.space, self.costs
            steps = [0] * space.num_cells
            for cell in space.cell_of_step:
                steps[cell] += 1
            macs = [[costs.calls_per_step * n * costs.macs_of[run] for run in space.runs] for n in steps]
            front = additive_front(evaluator.additive(space), macs, space.num_segments)
            self._surrogate = [(cost, quality, space.from_cells(cells)) for cost, quality, cells in front]
        return self._surrogate

    def chosen(self) -> list[Genome]:
        """At most ``points`` of the exact front, cheapest first."""
        return evenly([(cost, genome) for cost, _, genome in self.surrogate_front], self.points)

    def finalists(self, budget: Budget) -> list[Genome]:
        """The exact optimum of the additive evaluator within the budget."""
        within = (genome for _, _, genome in reversed(self.surrogate_front)
                  if budget.allows(self.space.decode(genome), self.space, self.costs))
        return list(itertools.islice(within, 1))

    @property
    def total(self) -> int:
        return len(self.chosen())

    def propose(self) -> list[Genome]:
        left = [genome for genome in self.chosen() if genome not in self.archive]
        return left[:self.batch_size]
