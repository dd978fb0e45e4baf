"""What a search found, and the files of it."""

from __future__ import annotations

import csv
import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimdiff.checkpoint import atomic_write, write_json
from slimdiff.evaluation.cost import human
from slimdiff.sampling import StepAllocation
from slimdiff.search.budget import Budget
from slimdiff.search.evaluation import Evaluation, Work
from slimdiff.search.problem import in_words

#: a share of the budget that an outcome does not leave without a word
IDLE = 0.1

Judged = tuple[StepAllocation, Evaluation]


@dataclass
class Outcome:
    """Result of a search.

    Args:
        front: candidates that none beats in MACs and quality, cheapest first.
        candidates: all that were judged.
        chosen: the best within the budget.
        budget: in MACs or seconds; None takes the best of all.
        timesteps: of the sampler.
        full_macs: of the widest width at every step, for one image.
        evaluator: that the qualities are of.
        work: spent, by evaluator.
        seconds: wall-clock time on this number of ranks.
        failures: why candidates failed.
        correlations: Spearman's, of pairs of evaluators; None where one of them ranks nothing.
    """

    front: list[Judged]
    candidates: list[Judged]
    chosen: Judged
    budget: Budget | None
    timesteps: tuple[float, ...]
    full_macs: float
    evaluator: str
    work: dict[str, Work]
    seconds: float
    failures: list[str]
    correlations: dict[str, float | None]

    def row(self, judged: Judged) -> dict[str, Any]:
        """One candidate as plain data."""
        allocation, evaluation = judged
        actions = allocation.taken(allocation.timesteps or self.timesteps)
        return dict(macs=evaluation.macs, fraction=evaluation.macs / self.full_macs, latency=evaluation.latency,
                    quality=evaluation.quality, steps=in_words(actions))

    @property
    def total_work(self) -> Work:
        return sum(self.work.values(), Work())

    def describe(self) -> str:
        """For the terminal: the chosen allocation, what it was chosen from, how far to trust it, what it cost."""
        allocation, evaluation = self.chosen
        work = self.total_work
        lines = [f'{len(self.candidates)} candidates, {len(self.failures)} failed, {len(self.front)} on the front from '
                 f'{human(self.front[0][1].macs)} to {human(self.front[-1][1].macs)} MACs an image',
                 f'chosen: {self.evaluator} {evaluation.quality:.5g} at {human(evaluation.macs)} MACs an image, '
                 f'{evaluation.macs / self.full_macs:.1%} of the full network',
                 allocation.describe(self.timesteps)]
        if self.budget is not None and self.budget.cost(evaluation) < (1 - IDLE) * self.budget.limit:
            lines.append(f'{1 - self.budget.cost(evaluation) / self.budget.limit:.0%} of the budget is unused: no '
                         'more expensive candidate within it was better. A longer search, or the budget as '
                         'search.searcher.budget, may find one.')
        lines += [f'rank correlation of {pair}: ' + ('undefined' if value is None else f'{value:.3f}')
                  for pair, value in self.correlations.items()]
        lines += [f'search cost: {human(work.macs)} network MACs, {work.calls} network calls ({work.calls_saved} saved '
                  f'by shared prefixes), {work.images} generated images, {self.seconds:.1f} s']
        return '\n'.join(lines)


def write_outcome(outcome: Outcome, work_dir: Path) -> None:
    """Write ``allocation.json``, ``front.json``, ``front.csv`` and ``search_cost.json``.

    All but the last are the same however often the search was interrupted.
    """
    outcome.chosen[0].save(work_dir / 'allocation.json')
    rows = [outcome.row(judged) for judged in outcome.front]
    write_json(work_dir / 'front.json', dict(
        version=1, evaluator=outcome.evaluator, full_macs=outcome.full_macs, timesteps=list(outcome.timesteps),
        front=[{**row, 'allocation': allocation.to_dict()} for row, (allocation, _) in zip(rows, outcome.front)]),
        indent=None, allow_nan=False)
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator='\n')
    table.writeheader()
    table.writerows(rows)
    atomic_write(work_dir / 'front.csv', lambda file: file.write(text.getvalue().encode()))
    work = {name: dataclasses.asdict(work) for name, work in outcome.work.items()}
    write_json(work_dir / 'search_cost.json', dict(
        candidates=len(outcome.candidates), failed=outcome.failures, rank_correlation=outcome.correlations,
        seconds=outcome.seconds, total=dataclasses.asdict(outcome.total_work), by_evaluator=work),
        indent=None, allow_nan=False)
