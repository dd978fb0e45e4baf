"""Fronts of several searches, judged again on images that none of them has seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slimdiff.progress import Progress
from slimdiff.sampling import StepAllocation
from slimdiff.search import Evaluator, Outcome
from slimdiff.search.evaluation import hypervolume
from slimdiff.search.problem import Problem
from slimdiff.search.searchers.dynamic_programming import evenly


def judge_fronts(outcomes: Mapping[str, Outcome], problem: Problem, judges: Mapping[str, Evaluator],
                 points: int = 12) -> dict[str, dict[str, Any]]:
    """What each search found and spent.

    A search's own qualities flatter it: it has picked the allocations that do well on its images. So each front is
    thinned evenly over the costs to so many points and judged with other noise, and its hypervolume is taken of these:
    the share of the box between the narrowest width at every step and the full network at quality 0 that it dominates.

    Args:
        outcomes: by the name of the search; all of the same model, sampler and steps.
        problem: of these.
        judges: evaluators by name, with another seed than the searches'.
        points: of each front.

    Returns:
        ``{search: dict(candidates, images, calls, macs, seconds, own_hypervolume, hypervolume, rank_correlation)}``;
        ``hypervolume`` is a dict by judge.

    Raises:
        ValueError: searches of different samplers or networks.
    """
    first = next(iter(outcomes.values()))
    for name, outcome in outcomes.items():
        if outcome.timesteps != first.timesteps or outcome.full_macs != first.full_macs:
            raise ValueError(f"The search '{name}' is of another sampler, number of steps or network than the others: "
                             'their fronts can not be compared.')
    narrowest = StepAllocation.uniform(min(problem.costs.macs_of), problem.model.num_train_timesteps,
                                      problem.model.noise_process.name)
    cheapest = problem.costs.macs(narrowest, problem.timesteps)
    found = {name: spent(outcome, narrowest, cheapest) for name, outcome in outcomes.items()}
    with Progress(len(outcomes) * len(judges), 'judging fronts', 'fronts') as bar:
        for title, judge in judges.items():
            worst = judge.bind(problem).evaluate([narrowest])[0].quality
            for name, outcome in outcomes.items():
                chosen = evenly([(e.macs, i) for i, (_, e) in enumerate(outcome.front)], points)
                fresh = judge.evaluate([outcome.front[i][0] for i in chosen])
                found[name]['hypervolume'][title] = hypervolume([(e.macs, e.quality) for e in fresh],
                                                                (first.full_macs, worst), (cheapest, 0.0))
                bar.update()
    return found


def spent(outcome: Outcome, narrowest: StepAllocation, cheapest: float) -> dict[str, Any]:
    """What a search says of itself; the box of its own hypervolume ends at its own quality of the narrowest width."""
    work = outcome.total_work
    own = next((e.quality for allocation, e in outcome.candidates if allocation == narrowest), None)
    volume = None if own is None else hypervolume([(e.macs, e.quality) for _, e in outcome.front],
                                                  (outcome.full_macs, own), (cheapest, 0.0))
    return dict(candidates=len(outcome.candidates), failed=len(outcome.failures), images=work.images, calls=work.calls,
                macs=work.macs, seconds=outcome.seconds, front=len(outcome.front), own_hypervolume=volume,
                hypervolume={}, rank_correlation=outcome.correlations)
