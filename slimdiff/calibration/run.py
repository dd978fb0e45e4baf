"""Measure, plan, judge: what ``slimdiff calibrate`` does. Each measurement is kept, and found again after a kill."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import nn

from slimdiff.calibration.actions import FEATURES, Action, build, offered
from slimdiff.calibration.frontier import Frontier, Option, additive_error, frontier, rivals
from slimdiff.calibration.measure import (
    RUNS,
    Judged,
    Recording,
    Replay,
    distance,
    growth_of,
    options_of,
    places,
    sampled,
    sensitivities,
)
from slimdiff.calibration.plan import FULL, Plan, architecture_of, denoiser_of, plain_network
from slimdiff.checkpoint.tensor_store import TensorStore, content_key, network_fingerprint
from slimdiff.evaluation.record import cpu_name
from slimdiff.progress import Progress
from slimdiff.search.evaluation import rank_correlation

#: samplings kept back for judging
JUDGING = 8


@dataclasses.dataclass(frozen=True)
class Finalist:
    """A plan, and how it was judged.

    Args:
        label: where it comes from.
        actions: one for each step.
        cost: of all steps, in the unit of the budget.
        predicted: its additive error.
        divergence: mean squared distance of its samples to the full network's.
    """
    label: str
    actions: tuple[str, ...]
    cost: float
    predicted: float
    divergence: float


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a calibration has found.

    Args:
        plan: the finalist of the smallest divergence.
        finalists: all that were judged, the best first.
        options: name -> what the step may do, with its errors and its cost.
        frontier: the additive optimum of every budget.
        correlation: rank correlation of predicted error and divergence among the finalists; None for fewer than 3.
        runs: samplings of the full network that the calibration cost.
        unit: of costs: 'macs' of an image, or 'ms' of the batch.
    """
    plan: Plan
    finalists: tuple[Finalist, ...]
    options: dict[str, Option]
    frontier: Frontier
    correlation: float | None
    runs: float
    unit: str

    @property
    def full_cost(self) -> float:
        return self.options[FULL].cost * len(self.plan.actions)


class Calibration:
    """One pipeline's calibration.

    Args:
        pipe: any with a denoiser.
        inputs: gives the arguments of a call, with generators in the same state every time.
        folder: keeps the measurements.
        identity: what they depend on beside the networks: steps, conditions, seed.
        weight: of guidance.
        actions: names; all that the denoiser can take by default.
        also: a smaller network, and where it lies.
        ages: steps that a memory is reused, at most.
        points: steps whose gains are measured, for each action; by default what the limit of runs allows.

    Raises:
        ValueError: an action that the denoiser can't take.
    """

    def __init__(self, pipe: DiffusionPipeline, inputs: Callable[[], dict[str, Any]], folder: str | Path,
                 identity: Mapping[str, Any], weight: float = 1.0, actions: Sequence[str] | None = None,
                 also: tuple[nn.Module, str] | None = None, ages: int = 4, points: int | None = None) -> None:
        self.pipe, self.inputs, self.weight, self.ages, self.points = pipe, inputs, weight, ages, points
        self.network = denoiser_of(pipe)[1]
        self.also = None if also is None else also[1]
        small = None if also is None else also[0]
        names = list(actions) if actions else offered(self.network, also is not None)
        self.actions: dict[str, Action] = {name: build(name, self.network, small) for name in names if name != FULL}
        self.store = TensorStore(Path(folder) / 'measurements.sqlite')
        # A text encoder, a ControlNet, whatever the pipeline has: all of them decide what it samples.
        parts = {name: part for name, part in sorted(vars(pipe).items()) if isinstance(part, nn.Module)}
        networks = {name: network_fingerprint(plain_network(part)) for name, part in (parts | {'also': small}).items()
                    if part is not None}
        self.key = json.dumps([dict(identity), list(self.actions), ages, weight, networks,
                               type(pipe.scheduler).__name__, str(dict(pipe.scheduler.config))], default=str)
        self.runs = 0.0

    # ---- measurements ---------------------------------------------------------------------------------------------

    def _kept(self, what: str, names: Sequence[str], make: Callable[[], dict[str, torch.Tensor]],
              known: Callable[[], Any]) -> dict[str, torch.Tensor]:
        """A measurement: found again, which calls ``known``, or made."""
        key = content_key(self.key, what)
        found = self.store.get(key, [*names, 'runs'])
        if found is None:
            found = make()
            self.store.put(key, found)
        else:
            known()
        self.runs += float(found['runs'])
        return found

    def _hardware(self) -> str:
        """What seconds depend on."""
        chip = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
        return f'{next(self.network.parameters()).device.type} {chip}'

    def _runs(self, taken: Mapping[str, float]) -> torch.Tensor:
        """What the steps of a policy cost, in samplings of the full network."""
        steps = self.table['errors'].shape[1]
        names = [FULL, *self.actions]
        return torch.tensor(sum(n * float(self.table['macs'][names.index(name)] / self.table['macs'][0])
                                for name, n in taken.items()) / steps, dtype=torch.float64)

    def record(self, bar: Progress) -> None:
        """The full network's sampling, with every action beside."""

        def make() -> dict[str, torch.Tensor]:
            policy = Recording(self.actions, self.ages, self.weight)
            policy.on_step = bar.update
            sampled(self.pipe, policy, self.inputs)
            self.table = policy.table()
            taken = dict(zip([FULL, *self.actions], self.table.pop('taken').tolist()))
            return {**self.table, 'runs': self._runs(taken)}

        names = ('errors', 'seconds', 'macs', 'final', 'predictions', 'first')
        self.table = self._kept(f'recording on {self._hardware()}', names, make, lambda: None)
        self.final, self.first = self.table['final'], int(self.table['first'])
        self.steps = self.table['errors'].shape[1]
        self.rows = {name: self.table['errors'][row].numpy() for row, name in enumerate([FULL, *self.actions])}
        # Each action that fits some step, and the first one.
        fits = {name: np.flatnonzero(np.isfinite(self.rows[name][:, 0])) for name in self.actions}
        self.usable = {name: int(steps[0]) for name, steps in fits.items() if len(steps)}

    def _divergence(self, name: str, step: int, length: int, bar: Progress) -> float:
        """Of the action at some steps alone."""

        def make() -> dict[str, torch.Tensor]:
            policy = Replay(self.table['predictions'], self.first, name, self.actions[name], step, length)
            policy.on_step = lambda: bar.update() if policy.taken else None
            final = sampled(self.pipe, policy, self.inputs)
            return dict(divergence=torch.tensor(distance(final, self.final), dtype=torch.float64),
                        runs=self._runs(policy.taken))

        return float(self._kept(f'{name} at {step}, {length}', ['divergence'], make,
                                lambda: bar.update(self._length(name, step)))['divergence'])

    def _length(self, name: str, step: int) -> int:
        """Steps of a probe that are not replayed."""
        return self.steps - step + (self.actions[name].needs == FEATURES)

    def probes(self) -> list[tuple[str, int, int]]:
        """(action, step, length) of the samplings that measure gains, and of those that measure chains."""
        reusing = [name for name in self.usable if self.actions[name].needs is not None]
        left = RUNS - JUDGING - self.runs
        count = self.points or max(2, min(8, int(left / (0.55 * max(1, len(self.usable) + len(reusing) / 2)))))
        at = {name: places(count, self.usable[name], self.steps) for name in self.usable}
        length = min(self.ages, 3)
        chains = [(name, step, length) for name in reusing for step in at[name][::2]
                  if length > 1 and step + length <= self.steps and all(
                      np.isfinite(self.rows[name][step + age, age]) for age in range(length))]
        return [(name, step, 1) for name in self.usable for step in at[name]] + chains

    def measure(self, bar: Progress) -> None:
        """Gains and growths of all usable actions."""
        rows = self.rows
        self.gains: dict[str, dict[int, float]] = {name: {} for name in self.usable}
        chains: dict[str, list] = {}
        for name, step, length in self.probes():
            divergence = self._divergence(name, step, length, bar)
            if length > 1:
                chains.setdefault(name, []).append((step, length, divergence))
            elif rows[name][step, 0] > 0:
                self.gains[name][step] = divergence / rows[name][step, 0]
        self.gains = {name: gains or {self.first: 0.0} for name, gains in self.gains.items()}
        self.growths = {}
        for name, found in chains.items():
            plain = sensitivities(rows[name], self.gains[name], 0.0)
            self.growths[name] = growth_of([(d, [plain[step + a, a] for a in range(length)])
                                            for step, length, d in found])

    # ---- plans ----------------------------------------------------------------------------------------------------

    def judge(self, actions: tuple[str, ...], bar: Progress) -> float:
        """The divergence of a plan."""

        def make() -> dict[str, torch.Tensor]:
            used = {name: self.actions[name] for name in dict.fromkeys(actions) if name != FULL}
            policy = Judged(self.plan_of(actions), used)
            policy.on_step = bar.update
            final = sampled(self.pipe, policy, self.inputs)
            return dict(divergence=torch.tensor(distance(final, self.final), dtype=torch.float64),
                        runs=self._runs(policy.taken))

        return float(self._kept(f'plan {",".join(actions)}', ['divergence'], make,
                                lambda: bar.update(self.steps))['divergence'])

    def plan_of(self, actions: Sequence[str]) -> Plan:
        """The plan of a sequence of actions."""
        return Plan(tuple(actions), architecture_of(self.network), type(self.pipe.scheduler).__name__,
                    self.also if 'also' in actions else None)

    def options(self, unit: str, growth: float = 1.0) -> dict[str, Option]:
        """What a step may do; ``growth`` scales how much more an old memory counts."""
        growths = {name: growth * value for name, value in self.growths.items()}
        return options_of(self.table, self.actions, self.gains, growths, unit)

    def candidates(self, options: Mapping[str, Option], budget: float, unit: str) -> dict[str, tuple[str, ...]]:
        """Label -> actions of what is worth judging: the optimum, optima of variations of it, and what users try."""
        best = frontier(list(options.values()), self.ages).within(budget)
        if best is None:
            cheapest = frontier(list(options.values()), self.ages).costs[0]
            full = options[FULL].cost * self.steps
            raise ValueError(f'--budget: no plan costs so little. The cheapest costs {cheapest / full:.3g} of the full '
                             'network.')
        found = {'optimum': best}

        def add(label: str, growth: float = 1.0, ages: int = self.ages, without: str = '') -> None:
            allowed = [option for option in self.options(unit, growth).values() if option.name != without]
            if actions := frontier(allowed, ages).within(budget):
                found[label] = actions

        fewer = range(1, min(3, self.ages))
        for ages in fewer:
            add(f'optimum, at most {ages} reused in a row', ages=ages)
        for growth in (0.0, 3.0):
            add(f'optimum, growth x{growth:g}', growth)
        found |= rivals(options, self.steps, budget, self.steps - 1)
        for name in dict.fromkeys(action for action in best if action != FULL):
            add(f'optimum without {name}', without=name)
            for ages in fewer:
                add(f'optimum without {name}, at most {ages} reused in a row', ages=ages, without=name)
        unique: dict[tuple[str, ...], str] = {}
        for label, actions in found.items():
            if np.isfinite(additive_error(actions, options, self.steps)):
                unique.setdefault(actions, label)
        return {label: actions for actions, label in unique.items()}

    def run(self, budget: float = 0.5, unit: str = 'macs', finalists: int = 16) -> Outcome:
        """Measure, plan and judge.

        Args:
            budget: share of the cost of the full network.
            unit: 'macs', or 'ms' as measured here.
            finalists: plans that are judged, at most.

        Raises:
            ValueError: a budget that no plan meets.
        """
        self.runs = 0.0
        with Progress(None, 'calibrating', 'steps') as bar:
            self.record(bar)
            known = self.steps + sum(self._length(name, step) for name, step, _ in self.probes())
            bar.total = known + finalists * self.steps
            bar.update(self.steps - bar.n)
            self.measure(bar)
            options = self.options(unit)
            limit = budget * options[FULL].cost * self.steps
            judged, chosen = [], list(self.candidates(options, limit, unit).items())[:finalists]
            bar.total = known + len(chosen) * self.steps
            for label, actions in chosen:
                cost = sum(options[name].cost for name in actions)
                if judged and self.runs + cost / options[FULL].cost / self.steps > RUNS:
                    break
                judged.append(Finalist(label, actions, cost, additive_error(actions, options, self.steps),
                                       self.judge(actions, bar)))
        judged.sort(key=lambda finalist: finalist.divergence)
        numbers = [(f.predicted, f.divergence) for f in judged]
        correlation = rank_correlation(*zip(*numbers)) if len(numbers) > 2 else None
        return Outcome(self.plan_of(judged[0].actions), tuple(judged), options,
                       frontier(list(options.values()), self.ages), correlation, self.runs, unit)
