"""The protocol of searchers: ask for candidates, tell what they are worth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from slimdiff.search.budget import Budget
from slimdiff.search.costs import NetworkCosts
from slimdiff.search.evaluation import Evaluation, pareto
from slimdiff.search.evaluators.base import Evaluator
from slimdiff.search.space import Genome, SearchSpace


class Searcher(ABC):
    """Proposes genomes, and learns from their evaluations. A subclass writes :meth:`propose`.

    The rest is done here: no genome is evaluated twice, everything evaluated is in :attr:`archive`, and
    :meth:`state_dict` has all that the future depends on, so that a search which was killed goes on as if it had not
    been. Draw random numbers from :attr:`rng` alone, and keep other state in ``state_dict``.

    Args:
        seed: of all draws.
    """

    #: whether it can search the timesteps of the steps, too, as all can that take genomes from the space
    moves_timesteps = True
    moves_timesteps_if = 'Search by NSGA2Search or RandomSearch.'

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self.archive: dict[Genome, Evaluation] = {}
        self.pending: list[Genome] | None = None
        self.space: SearchSpace | None = None

    def bind(self, space: SearchSpace, evaluators: Sequence[Evaluator] = (),
             costs: NetworkCosts | None = None) -> Searcher:
        """Say what is searched: the space, the ladder of evaluators, cheapest first, and the costs."""
        self.space, self.evaluators, self.costs = space, list(evaluators), costs
        return self

    @abstractmethod
    def propose(self) -> list[Genome]:
        """The next candidates, none of them in the archive; none at all ends the search."""

    def accept(self, genomes: Sequence[Genome], evaluations: Sequence[Evaluation]) -> None:  # noqa: B027 - optional
        """Learn from what was proposed; it is in the archive already."""

    def finalists(self, budget: Budget) -> list[Genome]:
        """Candidates to judge at the end of a search, for the budget that it picks for; none by default.

        A search is made for all budgets; this is where a searcher that knows more of one says so. It must not change
        the searcher, which the same search is asked of with other budgets.
        """
        return []

    @property
    def total(self) -> int | None:
        """How many candidates there will be, if that is known."""
        return None

    @property
    def done(self) -> bool:
        """Whether nothing is left to ask for."""
        return not self.ask()

    def ask(self) -> list[Genome]:
        """The candidates to evaluate; the same until they are told."""
        if self.pending is None:
            self.pending = [genome for genome in dict.fromkeys(self.propose()) if genome not in self.archive]
        return list(self.pending)

    def tell(self, genomes: Sequence[Genome], evaluations: Sequence[Evaluation]) -> None:
        """Give the evaluations of what was asked for, in its order.

        Raises:
            ValueError: other genomes than those asked for.
        """
        if list(genomes) != self.ask() or len(genomes) != len(evaluations):
            raise ValueError(f'tell: {len(genomes)} genomes with {len(evaluations)} evaluations are not what ask() '
                             f'gave ({len(self.ask())} genomes, in this order).')
        self.archive.update(zip(genomes, evaluations))
        self.pending = None
        self.accept(genomes, evaluations)

    @property
    def front(self) -> list[tuple[Genome, Evaluation]]:
        """The candidates that none beats in both MACs and quality, cheapest first."""
        items = list(self.archive.items())
        return [items[i] for i in pareto([(e.macs, e.quality) for _, e in items])]

    def unseen(self, make: Any, taken: set[Genome], tries: int = 200) -> Genome | None:
        """A genome by ``make()`` that is neither in the archive nor taken; None if ``tries`` give none."""
        for _ in range(tries):
            genome = make()
            if genome not in self.archive and genome not in taken:
                return genome
        return None

    def state_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dict(
            rng=self.rng.bit_generator.state,
            archive=[[*g.plain, e.to_dict()] for g, e in self.archive.items()],
            pending=None if self.pending is None else plain_genomes(self.pending))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict`."""
        self.rng.bit_generator.state = state['rng']
        self.archive = {Genome.from_plain(parts): Evaluation.from_dict(e) for *parts, e in state['archive']}
        self.pending = None if state['pending'] is None else [Genome.from_plain(g) for g in state['pending']]


def plain_genomes(genomes: Sequence[Genome]) -> list[list[list[int]]]:
    """Genomes for JSON."""
    return [genome.plain for genome in genomes]
