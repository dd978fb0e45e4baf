"""``slimdiff.apply`` and ``slimdiff.remove``: a pipeline of diffusers whose steps do what a plan says, in place.

Four things are rerouted: the pipeline's call (a trajectory begins and ends, threads take turns), the scheduler's
``set_timesteps`` and ``step`` (which step it is), and the denoiser's call (what happens in it). Outside a call of the
pipeline the denoiser is what it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from slimdiff.calibration.actions import (
    EARLIER,
    FEATURES,
    PREDICTION,
    TIME,
    Action,
    Call,
    Full,
    build,
    remember,
    tensor_of,
)
from slimdiff.calibration.features import Features
from slimdiff.calibration.plan import FULL, Plan, denoiser_of, plain_network
from slimdiff.models.backbones.reroute import reclass, reroute

#: the attribute of a denoiser that has an engine
ATTRIBUTE = '_slimdiff_engine'


class Policy(Protocol):
    """What answers the calls of the denoiser within a trajectory."""

    #: what must be prepared in the denoiser
    parts: list[Features]

    def begin(self, times: Sequence[float]) -> None:
        """A sampling begins that has these timesteps; may refuse them with a ValueError."""

    def answer(self, step: int, call: Call) -> Any:
        """The output for a call in a step."""

    def after(self, step: int, sample: Tensor) -> None:
        """The sampler has made ``sample`` in a step."""


class Trajectory:
    """Where the running call of a pipeline is."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.set_timesteps([])

    def set_timesteps(self, timesteps: Tensor | Sequence[float]) -> None:
        """A sampling begins."""
        self.times = torch.as_tensor(timesteps).cpu().double().tolist()  # MPS has no double
        self.memories: list[dict] = []  # of the first, second, ... call of each step
        self.step, self.calls, self.images, self.start = 0, 0, None, None


class Engine:
    """Reroutes a pipeline to a policy, and back.

    Args:
        pipe: any pipeline with a ``unet`` or ``transformer`` and a ``scheduler``.
        policy: answers the denoiser's calls.

    Raises:
        ValueError: no denoiser, no scheduler that steps, or one that is rerouted already.
    """

    def __init__(self, pipe: DiffusionPipeline, policy: Policy) -> None:
        name, self.denoiser = denoiser_of(pipe)
        self.pipe, self.policy, self.scheduler = pipe, policy, getattr(pipe, 'scheduler', None)
        if not hasattr(self.scheduler, 'step') or not hasattr(self.scheduler, 'set_timesteps'):
            raise ValueError(f'{type(pipe).__name__} has no scheduler with set_timesteps and step.')
        if ATTRIBUTE in vars(plain_network(self.denoiser)):
            raise ValueError(f'The {name} of this pipeline already has an allocation: call '
                             'slimdiff.remove(pipe) first.')
        self.lock, self.running = threading.RLock(), None
        self._undo: list[Callable[[], None]] = []

    def install(self) -> None:
        """Reroute."""
        engine = self

        def call(original: Callable[..., Any], pipe: Any, *args: Any, **kwargs: Any) -> Any:
            with engine.lock:
                before, engine.running = engine.running, Trajectory()
                try:
                    return original(*args, **kwargs)
                finally:
                    engine.running = before

        def set_timesteps(original: Callable[..., Any], scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if engine._is_running():
                engine.running.set_timesteps(scheduler.timesteps)
            return result

        def set_begin_index(original: Callable[..., Any], scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if engine._is_running():
                engine.running.start = scheduler.begin_index
            return result

        def step(original: Callable[..., Any], scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if engine._is_running() and engine.running.calls:  # a trial of the sampler alone calls no denoiser
                engine._after(tensor_of(result) if isinstance(result, tuple) else result.prev_sample)
            return result

        for part in self.policy.parts:
            self._undo += part.install()
        self._undo += [reclass(self.pipe, __call__=call),
                       reclass(self.scheduler, set_timesteps=set_timesteps, set_begin_index=set_begin_index, step=step),
                       reroute(self.denoiser, torch.compiler.disable(self._answer, recursive=False))]
        setattr(plain_network(self.denoiser), ATTRIBUTE, self)

    def uninstall(self) -> None:
        """Put everything back as it was."""
        with self.lock:
            while self._undo:
                self._undo.pop()()
            vars(plain_network(self.denoiser)).pop(ATTRIBUTE, None)

    def __reduce_ex__(self, protocol: int) -> Any:
        # A copy of the denoiser would call the original: its calls are rerouted there.
        raise ValueError('This network has an allocation, and cannot be copied or pickled with it: call '
                         'slimdiff.remove(pipe) before, and slimdiff.apply after.')

    def _is_running(self) -> bool:
        return self.running is not None and self.running.thread == threading.get_ident()

    def _answer(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._is_running():
            return forward(*args, **kwargs)
        if type(self.pipe.scheduler) is not type(self.scheduler):
            raise ValueError(f'The pipeline has another scheduler, {type(self.pipe.scheduler).__name__}, than when its '
                             'allocation was applied. Call slimdiff.remove(pipe), and calibrate for that one.')
        now = self.running
        if now.step >= len(now.times):
            return forward(*args, **kwargs)
        if not now.memories and now.calls == 0:
            self.policy.begin(now.times)
            now.step = first_step(now, args, kwargs, getattr(self.pipe, '_num_timesteps', None))
        while len(now.memories) <= now.calls:
            now.memories.append({})
        call = Call(forward, args, kwargs, now.memories[now.calls], now.images, now.calls,
                    now.times[now.step])
        now.calls += 1
        return self.policy.answer(now.step, call)

    def _after(self, sample: Tensor) -> None:
        now = self.running
        self.policy.after(now.step, sample)
        now.step, now.calls, now.images = now.step + 1, 0, len(sample)
        if now.step == len(now.times):
            now.memories = []


def first_step(now: Trajectory, args: tuple, kwargs: dict, count: int | None = None) -> int:
    """The step at which a sampling begins: later than 0 for a picture that is noised half-way (image to image).

    Args:
        count: of the steps that the pipeline takes, where it says so; it tells repeated timesteps apart (PNDM).
    """
    if now.start is not None:
        return now.start
    told = kwargs.get('timestep', args[1] if len(args) > 1 else None)
    if told is None:
        return 0
    told = float(torch.as_tensor(told).flatten()[0])
    places = [step for step, time in enumerate(now.times) if time == told]
    return next((step for step in places if step + (count or 0) == len(now.times)), places[0] if places else 0)


class Planned:
    """The policy of a plan: each step takes its action, or runs the full network where it can't.

    Args:
        plan: one action for each step.
        actions: name -> action, for all that the plan has.
    """

    def __init__(self, plan: Plan, actions: dict[str, Action]) -> None:
        self.plan, self.actions = plan, actions
        self.parts = [part for name in dict.fromkeys(plan.actions) if name != FULL for part in actions[name].parts()]
        stored = [part for name in dict.fromkeys(plan.actions) if name != FULL and actions[name].needs == FEATURES
                  for part in actions[name].parts()]
        self.full, self.storing = Full(), Full(stored)
        self.reads_earlier = any(actions[name].reads_earlier for name in set(plan.actions) - {FULL})
        #: memories that a later step reads, after each step
        self.read = [set() for _ in plan.actions]
        wanted: set[str] = set()
        for step in reversed(range(len(plan.actions))):
            self.read[step] = set(wanted)
            action = self._of(step)
            wanted -= action.fills
            wanted |= {action.needs} - {None}

    def _of(self, step: int) -> Action:
        name = self.plan.actions[step]
        return self.storing if name == FULL else self.actions[name]

    def begin(self, times: Sequence[float]) -> None:
        if len(times) != len(self.plan.actions):
            raise ValueError(f'The allocation of this pipeline is for {len(self.plan.actions)} steps of '
                             f'{self.plan.scheduler}, but this call takes {len(times)}. Give that many, calibrate '
                             'with --steps, or call slimdiff.remove(pipe).')

    def answer(self, step: int, call: Call) -> Any:
        action = self._of(step)
        if action is self.storing or not action.fits(call):
            action = self.storing if FEATURES in self.read[step] else self.full
        output = action.run(call)
        if PREDICTION in action.fills and (PREDICTION in self.read[step] or self.reads_earlier):
            remember(call, output)
        if not self.reads_earlier:
            call.memory.pop(EARLIER, None)
            if PREDICTION not in self.read[step]:
                call.memory.pop(PREDICTION, None)
                call.memory.pop(TIME, None)
        if FEATURES not in self.read[step]:
            for part in self.storing.stored:
                call.memory.pop(part, None)
        return output

    def after(self, step: int, sample: Tensor) -> None:
        pass


def apply(pipe: DiffusionPipeline, allocation: str | Path | Plan, also: nn.Module | None = None) -> DiffusionPipeline:
    """Let the steps of a pipeline do what ``allocation.json`` of ``slimdiff calibrate`` says, from the next call on.

    The pipeline is changed in place and returned; :func:`remove` undoes it. Calls of several threads run one after the
    other. A pipeline that is compiled should be compiled before.

    Args:
        pipe: with the denoiser, the sampler and the number of steps that were calibrated.
        allocation: the file, or what it holds.
        also: the smaller network, for an allocation that runs one; by default it is loaded from where it was.

    Raises:
        ValueError: an allocation for another pipeline or sampler, or no allocation; a pipeline that has one already.
    """
    plan = allocation if isinstance(allocation, Plan) else Plan.load(allocation)
    plan.check(pipe)
    if also is None and plan.also is not None:
        from slimdiff.api import load
        also = denoiser_of(load(plan.also, pipe.device))[1]
    network = plain_network(denoiser_of(pipe)[1])
    actions = {name: build(name, network, also) for name in dict.fromkeys(plan.actions) if name != FULL}
    Engine(pipe, Planned(plan, actions)).install()
    return pipe


def remove(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """Undo :func:`apply`; a pipeline without an allocation stays as it is."""
    engine = vars(plain_network(denoiser_of(pipe)[1])).get(ATTRIBUTE)
    if engine is not None:
        engine.uninstall()
    return pipe
