"""How far each action at each step moves the result, on common noise, for the price of a few samplings.

One sampling of the full network is recorded. At each of its steps every action is tried beside, on the very input that
the full network had, and so is each reuse at every age: its *local error* is the squared distance of the predictions.
How much a local error at a step moves the final sample, its *gain*, is measured by samplings that take the action at
that step alone. Before it they replay the recorded predictions, which costs nothing, so they work in any pipeline. The
gains of steps between are interpolated.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from slimdiff.calibration.actions import EARLIER, FEATURES, PREDICTION, TIME, Action, Call, Full, remember, tensor_of
from slimdiff.calibration.engine import Engine, Planned, Policy
from slimdiff.calibration.features import Features
from slimdiff.calibration.frontier import Option
from slimdiff.calibration.plan import FULL, Plan
from slimdiff.models.backbones.adapt import Prediction

#: what PyTorch's counter leaves out
_COUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
            lambda q, k, v, *args, out_shape=None, **kwargs: sdpa_flop_count(q, k, v)}

#: how many samplings of the full network a calibration may cost
RUNS = 30


def all_parts(actions: Mapping[str, Action]) -> list[Features]:
    """What must be prepared for the actions."""
    return [part for action in actions.values() for part in action.parts()]


def stored_parts(actions: Mapping[str, Action]) -> list[Features]:
    """What a full step stores for the actions."""
    return [part for action in actions.values() if action.needs == FEATURES for part in action.parts()]


class _Counting:
    """A policy that keeps the last sample and counts the steps of each action."""

    def __init__(self) -> None:
        self.final: Tensor | None = None
        self.taken: dict[str, float] = defaultdict(float)
        self.on_step: Callable[[], Any] = lambda: None

    def begin(self, times: Sequence[float]) -> None:
        pass

    def after(self, step: int, sample: Tensor) -> None:
        self.final = sample.detach().float().cpu()
        self.on_step()


class Recording(_Counting):
    """The full network's sampling, and every action tried beside it.

    Args:
        actions: name -> action.
        ages: of a memory, at most.
        weight: of guidance.
    """

    def __init__(self, actions: Mapping[str, Action], ages: int, weight: float) -> None:
        super().__init__()
        self.actions, self.ages, self.weight = dict(actions), ages, weight
        self.parts = all_parts(actions)
        self.full = Full(stored_parts(actions))
        self.history: dict[int, deque[dict]] = defaultdict(lambda: deque(maxlen=2 * ages + 1))
        self.predictions: dict[tuple[int, int], Tensor] = {}
        self.errors: dict[tuple[str, int, int], float] = defaultdict(float)
        self.seconds: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        self.macs: dict[str, float] = defaultdict(float)
        self.steps = self.first = None

    def begin(self, times: Sequence[float]) -> None:
        self.steps = len(times)

    def answer(self, step: int, call: Call) -> Any:
        self.first = step if self.first is None else self.first
        counted = step == min(self.first + 1, self.steps - 1)
        memory: dict[Any, Any] = {}
        output = self._timed(FULL, self.full, call, memory, step, counted)
        prediction = tensor_of(output)
        target = self._guided(prediction, call)
        for name, action in self.actions.items():
            for age, kept in enumerate([{}] if action.needs is None else self._memories(action, call.part)):
                if not action.fits(_with(call, kept)):
                    continue
                found = self._timed(name, action, call, kept, step, counted and age == 0, age == 0)
                error = (self._guided(tensor_of(found), call) - target).square().mean()
                self.errors[name, step, age] += float(error)
        remember(_with(call, memory), output)
        history = self.history[call.part]
        history.append(memory)
        if len(history) > self.ages:  # only its prediction is read from now on
            old = history[-self.ages - 1]
            history[-self.ages - 1] = {key: old[key] for key in (PREDICTION, TIME)}
        self.predictions[step, call.part] = prediction.detach().cpu().clone()
        return output

    def after(self, step: int, sample: Tensor) -> None:
        first, here = ([value.shape for (s, _), value in self.predictions.items() if s == which]
                       for which in (self.first, step))
        if here != first or len(set(here)) > 1:
            raise ValueError(f'The pipeline calls its denoiser with {_listed(first)} at step {self.first} and with '
                             f'{_listed(here)} at step {step}, counted from 0; a calibration needs the same calls of '
                             'one shape at every step. Switch off guidance that is added, or ends, within the '
                             'sampling (such as skip_guidance_layers or cfg_trunc_ratio).')
        super().after(step, sample)

    def _memories(self, action: Action, part: int) -> list[dict]:
        """What there is at each age, 1 first; the prediction before the last is as old as at equal intervals."""
        past = list(self.history[part])[::-1]
        found = past[:self.ages]
        if not action.reads_earlier:
            return found
        return [{**kept, EARLIER: (past[2 * age + 2][TIME], past[2 * age + 2][PREDICTION])}
                if 2 * age + 2 < len(past) else {} for age, kept in enumerate(found)]

    def _timed(self, name: str, action: Action, call: Call, memory: dict, step: int, counted: bool,
               noted: bool = True) -> Any:
        call = _with(call, memory)
        if counted:
            with FlopCounterMode(display=False, custom_mapping=_COUNTED) as counter:
                output = action.run(call)
            self.macs[name] += counter.get_total_flops() / 2 / (call.images or call.batch)
            self.taken[name] += 1
            if step < self.steps - 1:  # counting takes time of its own: it is timed at the next steps, or once more
                return output
        _wait()
        begin = time.perf_counter()
        output = action.run(call)
        _wait()
        if noted:
            self.seconds[name][step] += time.perf_counter() - begin
        self.taken[name] += 1
        return output

    def _guided(self, prediction: Tensor, call: Call) -> Tensor:
        if not call.guided:
            return prediction.float()
        without, conditional = prediction.float().chunk(2)
        return without + self.weight * (conditional - without)

    def table(self) -> dict[str, Tensor]:
        """What a later process needs: tensors by name."""
        names = [FULL, *self.actions]
        errors = torch.full((len(names), self.steps, self.ages), float('inf'), dtype=torch.float64)
        errors[0] = 0
        for (name, step, age), value in self.errors.items():
            row = errors[names.index(name), step]
            row[age:age + 1 if self.actions[name].needs else None] = value
        parts = 1 + max(part for _, part in self.predictions)
        seconds = [float(np.median(list(self.seconds[name].values()) or [np.inf])) for name in names]
        return dict(errors=errors, seconds=torch.tensor(seconds, dtype=torch.float64),
                    macs=torch.tensor([self.macs[name] for name in names], dtype=torch.float64), final=self.final,
                    predictions=torch.stack([torch.stack([self.predictions[step, part] for part in range(parts)])
                                             for step in range(self.first, self.steps)]),
                    first=torch.tensor(self.first),
                    taken=torch.tensor([self.taken[name] for name in names], dtype=torch.float64) / parts)


class Replay(_Counting):
    """The recorded predictions up to a step, an action there and at the next ones, the full network after."""

    def __init__(self, predictions: Tensor, first: int, name: str, action: Action, step: int, length: int = 1) -> None:
        super().__init__()
        self.predictions, self.first, self.name, self.action = predictions, first, name, action
        self.step, self.length = step, length
        self.parts = action.parts()
        stores = action.needs == FEATURES
        self.storing, self.full = Full(self.parts if stores else []), Full()

    def answer(self, step: int, call: Call) -> Any:
        if step < self.step - 1 or (step < self.step and self.action.needs != FEATURES):
            output = self._recorded(step, call)
            if step <= self.step - 2 - self.length or step == self.step - 1:
                remember(call, output)
            return output
        elif step < self.step:
            self.taken[FULL] += 1
            output = self.storing.run(call)
        elif step < self.step + self.length and self.action.fits(call):
            self.taken[self.name] += 1
            output = self.action.run(call)
        else:
            self.taken[FULL] += 1
            output = self.full.run(call)
        return output

    def _recorded(self, step: int, call: Call) -> Any:
        found = self.predictions[step - self.first, call.part]
        found = found.to(call.sample.device)
        return Prediction(sample=found) if call.kwargs.get('return_dict', True) else (found, )


class Judged(Planned, _Counting):
    """A plan whose result is kept."""

    def __init__(self, plan: Plan, actions: dict[str, Action]) -> None:
        _Counting.__init__(self)
        Planned.__init__(self, plan, actions)

    def answer(self, step: int, call: Call) -> Any:
        if call.part == 0:
            self.taken[self.plan.actions[step]] += 1
        return Planned.answer(self, step, call)

    def after(self, step: int, sample: Tensor) -> None:
        _Counting.after(self, step, sample)


def _with(call: Call, memory: dict) -> Call:
    return Call(call.forward, call.args, call.kwargs, memory, call.images, call.part, call.time)


def _listed(shapes: Sequence[torch.Size]) -> str:
    return ', '.join(str(tuple(shape)) for shape in shapes) or 'nothing'


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def sampled(pipe: DiffusionPipeline, policy: Policy, inputs: Callable[[], dict[str, Any]]) -> Tensor:
    """Call the pipeline under a policy; returns the last sample that its scheduler made.

    Raises:
        ValueError: the pipeline made none: it doesn't call its scheduler's ``step``.
    """
    engine = Engine(pipe, policy)
    engine.install()
    try:
        with torch.no_grad():
            pipe(**inputs())
    finally:
        engine.uninstall()
    if policy.final is None:
        raise ValueError(f'{type(pipe).__name__} does not call its denoiser and its scheduler in turn, so its steps '
                         "can't be told apart.")
    return policy.final


def distance(one: Tensor, other: Tensor) -> float:
    """Mean squared distance of two batches of samples."""
    return float((one - other).square().mean())


def places(count: int, first: int, steps: int) -> list[int]:
    """``count`` of the steps from the first one on, evenly, both ends among them."""
    return sorted({round(p) for p in np.linspace(first, steps - 1, min(count, steps - first))})


def sensitivities(errors: np.ndarray, gains: Mapping[int, float], growth: float) -> np.ndarray:
    """What an action adds to the divergence: (steps, ages).

    Args:
        errors: local ones, (steps, ages).
        gains: step -> divergence that a local error of 1 causes there.
        growth: how much more an error counts for each further step of age: those of consecutive reuses point the same
            way, and squares of sums exceed sums of squares.
    """
    steps = sorted(gains)
    logs = np.log([max(gains[step], 1e-30) for step in steps])
    gain = np.exp(np.interp(np.arange(len(errors)), steps, logs))
    return gain[:, None] * errors * (1 + growth * np.arange(errors.shape[1]))


def growth_of(chains: Sequence[tuple[float, Sequence[float]]]) -> float:
    """The ``growth`` of :func:`sensitivities` that explains chains of reuses: their median, at least 0.

    Args:
        chains: (divergence of a chain, what each of its steps would add without growth).
    """
    found = []
    for divergence, terms in chains:
        slope = sum(age * term for age, term in enumerate(terms))
        if slope > 0:
            found.append((divergence - sum(terms)) / slope)
    return max(0.0, float(np.median(found))) if found else 0.0


def options_of(table: Mapping[str, Tensor], actions: Mapping[str, Action], gains: Mapping[str, Mapping[int, float]],
               growths: Mapping[str, float], unit: str) -> dict[str, Option]:
    """The options of :func:`~slimdiff.calibration.frontier.frontier`; costs are those of one step.

    Args:
        unit: 'macs' of one image, or 'ms' of the batch.
    """
    costs = table['macs'] if unit == 'macs' else table['seconds'] * 1000
    full = table['errors'][0].numpy()
    found = {FULL: Option(FULL, full, float(costs[0]), None, frozenset({PREDICTION, FEATURES}))}
    for row, (name, action) in enumerate(actions.items(), 1):
        if name in gains:
            error = sensitivities(table['errors'][row].numpy(), gains[name], growths.get(name, 0.0))
            found[name] = Option(name, error, float(costs[row]), action.needs, action.fills)
    return found
