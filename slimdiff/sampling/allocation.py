"""Which network runs at which denoising step: segments over the training timestep, as a JSON file with a version.

DDSM (Yang et al., ICLR 2024) gives every step of one sampler its own width. Here the axis is the *training timestep*,
the noise level, so that one allocation serves any sampler at any number of steps. Timestep 0 is the clean end; a
sampler walks from the last segment to the first. A timestep is another noise level in another noise process, so an
allocation belongs to one.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from slimdiff.checkpoint import atomic_write, read_json
from slimdiff.checkpoint.json_file import check_keys
from slimdiff.functional.process import NoiseProcess, RectifiedFlow, VariancePreserving
from slimdiff.sampling.actions import Action, ByRun, Reuse, Run, action_from_dict, action_to_dict
from slimdiff.tables import text_table

VERSION = 1
#: noise processes by name; files without one are of the first
PROCESSES = (VariancePreserving.name, RectifiedFlow.name)


@dataclass(frozen=True)
class Segment:
    """``action`` for the training timesteps ``start <= t < stop``."""

    start: int
    stop: int
    action: Action

    def __post_init__(self) -> None:
        for name in ('start', 'stop'):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f'Segment: {name}={value!r} must be a whole training timestep.')
        if not isinstance(self.action, (Run, Reuse)):
            raise ValueError(f'Segment {self.start}..{self.stop}: the action must be a Run or a Reuse, got '
                             f'{self.action!r}.')
        if not 0 <= self.start < self.stop:
            raise ValueError(f'Segment: start={self.start} must be at least 0 and below stop={self.stop}.')


@dataclass(frozen=True)
class StepAllocation:
    """An action for every training timestep.

    Args:
        segments: from the clean end (timestep 0) to the noisiest, without gap or overlap. Neighbours of equal action
            are merged, so equal allocations are equal objects.
        num_train_timesteps: of the model; where the last segment stops.
        process: name of the model's noise process. The last timestep of a rectified flow is num_train_timesteps itself.
        timesteps: where it was searched to be sampled at, falling; None leaves them to the sampler. Whole ones of a
            diffusion; of a flow timestep / num_train_timesteps is the noise level.

    Raises:
        ValueError: an unknown process, timesteps that do not fall or are out of range, no segment, a gap, an overlap,
            segments in the wrong order or beyond the timesteps, or a last segment (the first one that a sampler meets)
            that would reuse what isn't there.
    """

    segments: tuple[Segment, ...]
    num_train_timesteps: int = 1000
    process: str = PROCESSES[0]
    timesteps: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        total = self.num_train_timesteps
        if self.process not in PROCESSES:
            raise ValueError(f'StepAllocation: process={self.process!r} is unknown; choose one of '
                             f'{", ".join(PROCESSES)}.')
        if isinstance(total, bool) or not isinstance(total, int) or total < 1:
            raise ValueError(f'StepAllocation: num_train_timesteps={total!r} must be a whole number above 0.')
        segments = tuple(self.segments)
        if not segments or not all(isinstance(segment, Segment) for segment in segments):
            raise ValueError(f'StepAllocation: segments must be one or more Segment(start, stop, action), got '
                             f'{list(self.segments)!r}.')
        if segments[0].start != 0:
            raise ValueError(f'StepAllocation: the first segment starts at {segments[0].start}; it must start at 0, '
                             'the clean end.')
        for one, two in pairwise(segments):
            if two.start < one.start:
                raise ValueError(f'StepAllocation: segments must rise from timestep 0, but {two.start}..{two.stop} '
                                 f'comes after {one.start}..{one.stop}.')
            if two.start != one.stop:
                what = 'gap' if two.start > one.stop else 'overlap'
                raise ValueError(f'StepAllocation: there is a{"n" if what == "overlap" else ""} {what} between '
                                 f'{one.start}..{one.stop} and {two.start}..{two.stop}; each segment must start where '
                                 'the one before it stops.')
        if segments[-1].stop != total:
            raise ValueError(f'StepAllocation: the last segment stops at {segments[-1].stop}; it must stop at '
                             f'num_train_timesteps={total}.')
        if isinstance(segments[-1].action, Reuse):
            raise ValueError(f'StepAllocation: the last segment, {segments[-1].start}..{segments[-1].stop}, is where '
                             f"sampling begins: there is nothing to reuse yet. Give it a width, not "
                             f"'{segments[-1].action}'.")
        merged = [segments[0]]
        for segment in segments[1:]:
            if segment.action == merged[-1].action:
                merged[-1] = Segment(merged[-1].start, segment.stop, segment.action)
            else:
                merged.append(segment)
        object.__setattr__(self, 'segments', tuple(merged))
        if self.timesteps is not None:
            object.__setattr__(self, 'timesteps', self._checked(self.timesteps))

    def _checked(self, timesteps: Sequence[float]) -> tuple[float, ...]:
        found = tuple(map(float, timesteps))
        whole = [whole_timestep(t, self.num_train_timesteps, self.process) for t in found]
        if not found or any(b >= a for a, b in pairwise(whole)):
            raise ValueError(f'StepAllocation: timesteps={list(found)} must fall, one or more, each another whole '
                             'timestep.')
        if self.process == PROCESSES[0] and any(t != math.floor(t) for t in found):
            raise ValueError(f'StepAllocation: timesteps={list(found)} must be whole: the process is {self.process}.')
        if found[-1] <= 0 and self.process != PROCESSES[0]:
            raise ValueError(f'StepAllocation: timesteps={list(found)} must end above 0, where nothing is left to do.')
        return found

    # ---- baselines --------------------------------------------------------------------------------------------

    @classmethod
    def from_pieces(cls, boundaries: Sequence[int], actions: Sequence[Action], num_train_timesteps: int = 1000,
                    process: str = PROCESSES[0]) -> StepAllocation:
        """Actions from the clean end on, and the n - 1 timesteps between them."""
        if len(boundaries) != len(actions) - 1:
            raise ValueError(f'from_pieces: {len(actions)} actions have {len(actions) - 1} boundaries between them, '
                             f'got {len(boundaries)}.')
        edges = [0, *boundaries, num_train_timesteps]
        return cls(tuple(Segment(int(a), int(b), action) for (a, b), action in zip(pairwise(edges), actions)),
                   num_train_timesteps, process)

    @classmethod
    def uniform(cls, run: Run | float, num_train_timesteps: int = 1000, process: str = PROCESSES[0]) -> StepAllocation:
        """One width (and depth) at every step."""
        return cls.from_pieces([], [Run.of(run)], num_train_timesteps, process)

    @classmethod
    def prefix(cls, narrow: Run | float, wide: Run | float, fraction: float, num_train_timesteps: int = 1000,
               process: str = PROCESSES[0]) -> StepAllocation:
        """T-Stitch (Pan et al. 2024): the first ``fraction`` of the steps, the noisiest, narrow, the others wide."""
        if not 0 <= fraction <= 1:
            raise ValueError(f'prefix: fraction={fraction} must lie in [0, 1].')
        border = num_train_timesteps - round(fraction * num_train_timesteps)
        if border in (0, num_train_timesteps):
            return cls.uniform(narrow if border == 0 else wide, num_train_timesteps, process)
        return cls.from_pieces([border], [Run.of(wide), Run.of(narrow)], num_train_timesteps, process)

    @classmethod
    def random(cls, runs: Sequence[Run | float], num_segments: int, seed: int, num_train_timesteps: int = 1000,
               process: str = PROCESSES[0]) -> StepAllocation:
        """Equal segments, each of a width (and depth) drawn evenly from ``runs``."""
        draw = random.Random(seed)
        return cls._equal([draw.choice(list(runs)) for _ in range(num_segments)], num_train_timesteps, process)

    @classmethod
    def linear(cls, widths: Sequence[float], reverse: bool = False, num_train_timesteps: int = 1000,
               process: str = PROCESSES[0]) -> StepAllocation:
        """Equal segments, one for each width: widest at the clean end, or narrowest there with ``reverse``."""
        return cls._equal(sorted(widths, reverse=not reverse), num_train_timesteps, process)

    @classmethod
    def _equal(cls, runs: Sequence[Run | float], total: int, process: str) -> StepAllocation:
        if not 1 <= len(runs) <= total:
            raise ValueError(f'StepAllocation: {len(runs)} segments do not fit {total} timesteps; 1..{total} do.')
        edges = [total * i // len(runs) for i in range(1, len(runs))]
        return cls.from_pieces(edges, [Run.of(run) for run in runs], total, process)

    @classmethod
    def from_steps(cls, actions: Sequence[Action], timesteps: Sequence[float], num_train_timesteps: int = 1000,
                   process: str = PROCESSES[0]) -> StepAllocation:
        """One action for each sampling step; segments meet half-way between neighbouring timesteps.

        Args:
            timesteps: of the sampler, one for each action, in any order; floats are floored.

        Raises:
            ValueError: other numbers of actions and timesteps, a timestep out of range, or two actions at one.
        """
        if len(actions) != len(timesteps) or not len(actions):
            raise ValueError(f'from_steps: {len(actions)} actions for {len(timesteps)} timesteps; give one action a '
                             'step.')
        found: dict[int, Action] = {}
        for action, t in zip(actions, timesteps):
            t = whole_timestep(t, num_train_timesteps, process)
            if found.setdefault(t, action) != action:
                raise ValueError(f"from_steps: the steps at timestep {t} have two actions, '{found[t]}' and "
                                 f"'{action}'.")
        times = sorted(found)
        return cls.from_pieces([(a + b + 1) // 2 for a, b in pairwise(times)], [found[t] for t in times],
                               num_train_timesteps, process)

    def translated(self, source: NoiseProcess, target: NoiseProcess) -> StepAllocation:
        """The allocation for another noise process: the same action at the same signal-to-noise ratio.

        Boundaries and timesteps are rounded to whole timesteps, two of its own that meet are moved apart; a segment of
        noise levels that ``target`` doesn't have is left out.

        Args:
            source: of this allocation.

        Raises:
            ValueError: ``source`` is another one.
        """
        if (source.name, source.num_train_timesteps) != (self.process, self.num_train_timesteps):
            raise ValueError(f'translated: the allocation is for {self.num_train_timesteps} timesteps of '
                             f'{self.process}, but source has {source.num_train_timesteps} of {source.name}.')
        total = target.num_train_timesteps
        starts = source.timesteps(torch.tensor([s.start for s in self.segments], dtype=torch.float64))
        edges = [0, *target.timesteps_of(source.snr(starts[1:])).round().long().clamp(0, total).tolist(), total]
        kept = [(start, stop, s.action) for s, (start, stop) in zip(self.segments, pairwise(edges)) if start < stop]
        times = self.timesteps
        if times is not None:
            levels = source.timesteps(torch.tensor(times, dtype=torch.float64))
            times = target.timesteps_of(source.snr(levels)).tolist()
            times = _apart([round(t) for t in times] if target.name == PROCESSES[0] else times, total)
        return type(self)(tuple(Segment(*piece) for piece in kept), total, target.name, times)

    # ---- what it says -----------------------------------------------------------------------------------------

    def action_at(self, t: float) -> Action:
        """The action at training timestep ``t``; a float is floored.

        Raises:
            ValueError: a timestep beyond the model's.
        """
        t = whole_timestep(t, self.num_train_timesteps, self.process)
        return next(segment.action for segment in self.segments if segment.start <= t < segment.stop)

    def run_at(self, t: float) -> Run:
        """What runs at ``t`` if there is nothing to reuse: its run, or that of the next noisier segment."""
        t = whole_timestep(t, self.num_train_timesteps, self.process)
        return next(s.action for s in self.segments if t < s.stop and isinstance(s.action, Run))

    def actions(self, timesteps: Iterable[float]) -> list[Action]:
        """One action for each of a sampler's timesteps, in their order."""
        return [self.action_at(t) for t in timesteps]

    def taken(self, timesteps: Iterable[float]) -> list[Action]:
        """What :class:`~slimdiff.StepAwareUNet` does at each of a sampler's timesteps, in their order.

        As :meth:`actions`, but where there is nothing to reuse (at the first step, and where the timestep does not
        fall) the run of the next noisier segment happens.
        """
        before = [math.inf, *(timesteps := list(timesteps))]
        return [self.run_at(t) if isinstance(action, Reuse) and not t < last < math.inf else action
                for last, t, action in zip(before, timesteps, self.actions(timesteps))]

    @property
    def runs(self) -> tuple[Run, ...]:
        """The widths (and depths) that run, rising."""
        return tuple(sorted({s.action for s in self.segments if isinstance(s.action, Run)}))

    @property
    def widths(self) -> tuple[float, ...]:
        """The widths that run, rising."""
        return tuple(sorted({run.width for run in self.runs}))

    @property
    def uses_reuse(self) -> bool:
        return any(isinstance(segment.action, Reuse) for segment in self.segments)

    def check_runs(self, available: Iterable[Run | float]) -> None:
        """Raise ValueError if a run is not among those of a network."""
        available = sorted(map(Run.of, available))
        missing = [run for run in self.runs if run not in available]
        if missing and all(run.depth == 1 for run in available) and any(run.depth < 1 for run in missing):
            raise ValueError(f'The allocation runs at depth {min(run.depth for run in missing):g}, but the network has '
                             'one depth: only networks with depths, such as SlimmableDiT, skip blocks.')
        if missing:
            raise ValueError(f'The allocation runs at width {_listed(missing)}, but the network has '
                             f'{_listed(available)}. Search with the widths that it was trained '
                             'at, or train it at these.')

    def macs(self, timesteps: Sequence[float], macs_of: Mapping[Run | float, float],
             shallow_of: Mapping[Run | float, float] | None = None) -> float:
        """MACs for one image through all sampling steps, guidance not counted.

        What counts are the actions :meth:`taken`.

        Args:
            timesteps: in the sampler's order, the noisiest first.
            macs_of: run (or width) -> MACs of one network call.
            shallow_of: run (or width) -> MACs of the shallow part, which ``Reuse('features')`` runs as the last run.

        Raises:
            ValueError: a run without a cost.
        """
        macs_of, shallow_of = ByRun(macs_of), ByRun(shallow_of or {})
        total, last = 0.0, None
        for action in self.taken(timesteps):
            if isinstance(action, Run):
                last = action
                total += _cost(macs_of, last, 'macs_of')
            elif action.what == 'features':
                total += _cost(shallow_of, last, 'shallow_of')
        return total

    def describe(self, timesteps: Sequence[float] | None = None) -> str:
        """Text table, the noisiest segment first: timesteps, action and how many steps take it, of ``timesteps`` or of
        the allocation's own."""
        rows, timesteps = [], self.timesteps or timesteps
        for segment in reversed(self.segments):
            # Whole timesteps, or real ones up to the boundary.
            row = (f'{segment.stop - (self.process == PROCESSES[0])}..{segment.start}', str(segment.action))
            if timesteps is not None:
                whole = [whole_timestep(t, self.num_train_timesteps, self.process) for t in timesteps]
                row += (str(sum(segment.start <= t < segment.stop for t in whole)), )
            rows.append(row)
        table = text_table(['timesteps', 'action', *(['steps'] if timesteps is not None else [])], rows, left=2)
        return table if self.timesteps is None else f'{table}\nsampled at {", ".join(f"{t:g}" for t in timesteps)}'

    __str__ = describe

    # ---- files ------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        segments = [dict(start=s.start, stop=s.stop, **action_to_dict(s.action)) for s in self.segments]
        # Without the key where it may be left out: files of this process are read by any slimdiff.
        process = {} if self.process == PROCESSES[0] else {'process': self.process}
        times = {} if self.timesteps is None else {'timesteps': list(self.timesteps)}
        return dict(version=VERSION, num_train_timesteps=self.num_train_timesteps, **process, **times,
                    segments=segments)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StepAllocation:
        """The reverse of :meth:`to_dict`.

        Raises:
            ValueError: another version, a key that is missing or unknown, or what the constructor refuses.
        """
        check_keys(data, ('version', 'num_train_timesteps', 'segments'), ('process', 'timesteps'), 'allocation')
        if data['version'] != VERSION:
            raise ValueError(f'allocation: version {data["version"]!r} is unknown; this slimdiff reads {VERSION}.')
        if not isinstance(data['segments'], (list, tuple)):
            raise ValueError(f'allocation: segments must be a list, got {data["segments"]!r}.')
        segments = []
        for i, item in enumerate(data['segments']):
            check_keys(item, ('start', 'stop'), ('width', 'depth', 'reuse'), f'allocation, segment {i}')
            segments.append(Segment(item['start'], item['stop'], action_from_dict(item)))
        times = data.get('timesteps')
        if times is not None and not (isinstance(times, (list, tuple)) and all(
                isinstance(t, (int, float)) and not isinstance(t, bool) for t in times)):
            raise ValueError(f'allocation: timesteps must be a list of numbers, got {times!r}.')
        return cls(tuple(segments), data['num_train_timesteps'], data.get('process', PROCESSES[0]), times)

    def save(self, path: str | Path) -> None:
        """Write JSON; the file appears whole or not at all, and folders are made."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        data = self.to_dict()
        lines = ',\n'.join(f'  {json.dumps(segment)}' for segment in data['segments'])
        head = json.dumps({key: value for key, value in data.items() if key != 'segments'})
        text = f'{head[:-1]}, "segments": [\n{lines}\n]}}\n'
        atomic_write(path, lambda file: file.write(text.encode()))

    @classmethod
    def load(cls, path: str | Path) -> StepAllocation:
        """Read and validate a file of :meth:`save`.

        Raises:
            ValueError: no JSON, or no valid allocation; the message names the file.
            OSError: no such file.
        """
        data = read_json(path, 'Search again, or give another allocation.', object)
        if isinstance(data, Mapping) and 'actions' in data:
            raise ValueError(f'{path} is a plan of slimdiff calibrate, an action for each step of one pipeline: '
                             'slimdiff.apply(pipe, path) uses it.')
        try:
            return cls.from_dict(data)
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from None


def _apart(timesteps: Sequence[float], total: int) -> list[float]:
    """Timesteps that do not rise, those moved that share a whole one with the next: up, or down at the noisy end."""
    whole = [min(math.floor(t), total - 1) for t in timesteps]
    moved = list(whole)
    for i in reversed(range(len(moved) - 1)):
        moved[i] = max(moved[i], moved[i + 1] + 1)
    moved = [min(t, total - 1 - i) for i, t in enumerate(moved)]
    return [t if old == new else float(new) for t, old, new in zip(timesteps, whole, moved)]


def _listed(runs: Iterable[Run]) -> str:
    return ', '.join(run.size for run in runs)


def whole_timestep(t: float, total: int, process: str = PROCESSES[0]) -> int:
    """The timestep 0..total-1 that decides on the action at ``t``.

    Raises:
        ValueError: ``t`` is out of range.
    """
    last = total if process == RectifiedFlow.name else total - 1
    if not 0 <= math.floor(t) <= last or t > total:
        raise ValueError(f'timestep {float(t):g} is out of range: the allocation is for 0..{last} '
                         f'(num_train_timesteps={total}).')
    return min(math.floor(t), total - 1)


def _cost(costs: Mapping[Run, float], run: Run, name: str) -> float:
    if run not in costs:
        raise ValueError(f'{name} has no cost for width {run.size}; it has {_listed(costs) or "none"}.')
    return costs[run]
