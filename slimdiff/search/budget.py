"""A hard limit on what an allocation may cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slimdiff.evaluation.cost import human
from slimdiff.sampling import Reuse, StepAllocation
from slimdiff.search.costs import NetworkCosts
from slimdiff.search.evaluation import Evaluation
from slimdiff.search.space import Genome, SearchSpace
from slimdiff.spelling import did_you_mean

KINDS = ('fraction', 'macs', 'latency')


@dataclass(frozen=True)
class Budget:
    """``limit`` of one kind for one image: a ``'fraction'`` of the full network's MACs, ``'macs'`` or ``'latency'``.

    Latency is in seconds.

    Raises:
        ValueError: another kind, or a limit that is not above 0.
    """

    kind: str
    limit: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"budget: there is no '{self.kind}'.{did_you_mean(self.kind, KINDS)} Give one of "
                             f'{", ".join(KINDS)}.')
        if not self.limit > 0:
            raise ValueError(f'budget: {self.kind}={self.limit} must be above 0.')

    @classmethod
    def parse(cls, data: Budget | Mapping[str, float] | None) -> Budget | None:
        """``dict(fraction=0.5)``, ``dict(macs=...)`` or ``dict(latency=...)``; None stays None."""
        if data is None or isinstance(data, Budget):
            return data
        if len(data) != 1:
            raise ValueError(f'budget: give exactly one of {", ".join(KINDS)}, got {dict(data)}.')
        return cls(*next(iter(data.items())))

    def bound(self, costs: NetworkCosts, space: SearchSpace) -> Budget:
        """The same limit in MACs or seconds: a fraction is one of the widest width at every step.

        Raises:
            ValueError: a limit in seconds where none were measured.
        """
        if self.kind == 'latency' and costs.seconds_of is None:
            raise ValueError('budget: a limit in seconds needs measured latencies: set search.latency, such as '
                             'dict(batch_size=8).')
        if self.kind != 'fraction':
            return self
        return Budget('macs', self.limit * costs.full(space.timesteps))

    def cost(self, evaluation: Evaluation) -> float:
        """What the limit is on."""
        return evaluation.macs if self.kind == 'macs' else evaluation.latency

    def excess(self, evaluation: Evaluation) -> float:
        """By how much of the limit an evaluation is above it; 0 within it."""
        return max(0.0, self.cost(evaluation) / self.limit - 1 - 1e-12)

    def allows(self, allocation: StepAllocation, space: SearchSpace, costs: NetworkCosts) -> bool:
        """Whether an allocation is within the limit."""
        times = allocation.timesteps or space.timesteps
        return self.excess(Evaluation(0.0, costs.macs(allocation, times), costs.latency(allocation, times))) == 0

    def check(self, space: SearchSpace, costs: NetworkCosts) -> None:
        """Raise ValueError unless the limit lies between the cheapest and the most expensive allocation of a space."""
        price = costs.macs if self.kind == 'macs' else costs.latency
        low, high = (price(space.decode(genome), space.timesteps) for genome in extremes(space))
        if not low * (1 - 1e-9) <= self.limit <= high * (1 + 1e-9):
            unit, show = ('MACs', human) if self.kind == 'macs' else ('seconds', lambda v: f'{v:.4g}')
            raise ValueError(f'The budget of {show(self.limit)} {unit} for an image is out of range: the cheapest '
                             f'allocation takes {show(low)}, the most expensive {show(high)} ({low / high:.3f} to 1 of '
                             'it).')


def extremes(space: SearchSpace) -> tuple[Genome, Genome]:
    """The cheapest genome, the narrowest width with as much reuse as possible, and the most expensive, the widest."""
    cheap = space.uniform(0)
    if len(space.actions) > len(space.runs) and space.num_segments > 1:
        reuse = [a for a in space.actions if isinstance(a, Reuse)]
        best = space.actions.index(min(reuse, key=lambda action: action.what != 'prediction'))
        cheap = Genome((1, ), (0, best), space.own_times)
    return cheap, space.uniform(len(space.runs) - 1)
