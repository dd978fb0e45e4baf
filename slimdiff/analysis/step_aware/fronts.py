"""Fronts of several searches, judged anew on images that none of them has seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slimdiff.evaluation.progress import Progress
from slimdiff.sampling import StepAllocation
from slimdiff.search import DivergenceEvaluator, Outcome
from slimdiff.search.evaluation import hypervolume
from slimdiff.search.problem import Problem
from slimdiff.search.searchers.dynamic_programming import evenly


def judge_fronts(outcomes: Mapping[str, Outcome], problem: Problem, num_images: int = 200, seed: int = 1_000_003,
                 points: int = 16) -> dict[str, dict[str, Any]]:
    """What each search found and spent.

    A search's own qualities flatter it: it has picked the allocations that do well on its images. So each front is
    thinned evenly over the costs to so many points, sampled with other noise, and its hypervolume is taken of these:
    the share of the box between the narrowest width at every step and the full network at no error that it dominates.

    Args:
        outcomes: by the name of the search; all of the same model, sampler and steps.
        problem: of these.
        num_images: fresh ones, for each allocation.
        seed: of their noise.
        points: of each front.

    Returns:
        ``{search: dict(candidates, images, calls, macs, seconds, own_hypervolume, hypervolume, rank_correlation)}``.

    Raises:
        ValueError: searches of different samplers or networks.
    """
    first = next(iter(outcomes.values()))
    for name, outcome in outcomes.items():
        if outcome.timesteps != first.timesteps or outcome.full_macs != first.full_macs:
            raise ValueError(f"The search '{name}' is of another sampler, number of steps or network than the others: "
                             'their fronts can not be compared.')
    total = problem.model.num_train_timesteps
    narrowest, widest = (StepAllocation.uniform(pick(problem.costs.macs_of), total) for pick in (min, max))
    evaluator = DivergenceEvaluator(num_images=num_images, seed=seed).bind(problem)
    worst = evaluator.evaluate([narrowest])[0]
    reference = (problem.costs.macs(widest, problem.timesteps), worst.quality)
    ideal = (worst.macs, 0.0)
    found = {}
    with Progress(len(outcomes), 'judging fronts', 'searches') as bar:
        for name, outcome in outcomes.items():
            chosen = evenly([(e.macs, i) for i, (_, e) in enumerate(outcome.front)], points)
            fresh = evaluator.evaluate([outcome.front[i][0] for i in chosen])
            work = outcome.total_work
            own = next((e.quality for a, e in outcome.candidates if a == narrowest), None)
            found[name] = dict(
                candidates=len(outcome.candidates), failed=len(outcome.failures), images=work.images, calls=work.calls,
                macs=work.macs, seconds=outcome.seconds, front=len(outcome.front), judged=len(chosen),
                own_hypervolume=None if own is None else hypervolume(
                    [(e.macs, e.quality) for _, e in outcome.front], (reference[0], own), ideal),
                hypervolume=hypervolume([(e.macs, e.quality) for e in fresh], reference, ideal),
                rank_correlation=outcome.correlations)
            bar.update()
    return found
