"""What is searched: a few segments of sampling steps, each with a typed action.

DDSM (Yang et al., ICLR 2024) gives each of 1000 steps a gene of its own. Here a genome is the boundaries between
segments, on a grid over the sampler's steps, and the action of each segment: a hundred times fewer genes, and every
genome that the operators make is a valid allocation.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from slimdiff.sampling import Action, Reuse, Run, StepAllocation
from slimdiff.sampling.allocation import PROCESSES, whole_timestep


class Genome(NamedTuple):
    """Segments in the order of sampling, the noisiest first.

    ``boundaries`` are the first grid cells of the second, third, ... segment; ``actions`` index
    :attr:`SearchSpace.actions`. A genome in canonical form has rising boundaries and no two equal neighbours.
    ``times``, rising, index :attr:`SearchSpace.levels`; () leaves the timesteps to the sampler.
    """

    boundaries: tuple[int, ...]
    actions: tuple[int, ...]
    times: tuple[int, ...] = ()

    @classmethod
    def from_plain(cls, data: Sequence[Sequence[int]]) -> Genome:
        """The reverse of :attr:`plain`."""
        return cls(*(tuple(map(int, part)) for part in data))

    @property
    def plain(self) -> list[list[int]]:
        """For JSON."""
        return [list(part) for part in (self if self.times else self[:2])]


class SearchSpace:
    """All allocations of at most ``num_segments`` segments.

    Args:
        widths, depths: of the supernet that may be used, each width at each depth.
        num_segments: at most so many.
        num_train_timesteps, process: of the model.
        timesteps: the sampler's, in its order, falling.
        reuse: further actions, of ``'prediction'`` and ``'features'``. A sampling begins with a width all the same.
        cells: boundaries lie on a grid of so many cells, equal parts of the steps; one for each step by default.
        levels: also search the noise levels of the steps (AutoDiffusion, Li et al., ICCV 2023): of so many timesteps,
            evenly spread, and the sampler's own. None leaves them as they are.

    Raises:
        ValueError: no width, timesteps that rise, more cells than steps, a number that is not at least 1, or fewer
            levels than steps.
    """

    def __init__(self,
                 widths: Sequence[float],
                 num_segments: int,
                 num_train_timesteps: int,
                 timesteps: Sequence[float],
                 reuse: Sequence[str] = (),
                 cells: int | None = None,
                 process: str = PROCESSES[0],
                 depths: Sequence[float] = (1.0, ),
                 levels: int | None = None) -> None:
        if not widths or not depths or num_segments < 1:
            raise ValueError(f'SearchSpace: widths={list(widths)}, depths={list(depths)} and '
                             f'num_segments={num_segments} must each be one or more.')
        #: the first actions, rising
        self.runs = tuple(sorted({Run(width, depth) for width in widths for depth in depths}))
        self.actions: tuple[Action, ...] = (*self.runs, *map(Reuse, dict.fromkeys(reuse)))
        self.num_train_timesteps, self.process = num_train_timesteps, process
        self.timesteps = tuple(float(t) for t in timesteps)
        floored = [whole_timestep(t, num_train_timesteps, process) for t in self.timesteps]
        if not floored or floored != sorted(floored, reverse=True):
            raise ValueError(f'SearchSpace: timesteps must fall from noise to clean, got {list(timesteps)[:8]} ...')
        # Steps at one training timestep (second-order samplers have such) can't differ: the grid is over distinct ones.
        distinct = list(dict.fromkeys(floored))
        if cells is not None and not 1 <= cells <= len(distinct):
            raise ValueError(f'SearchSpace: cells={cells} must lie in 1..{len(distinct)}, the number of different '
                             'timesteps of the sampler; leave it out for one cell a step.')
        self.num_cells = cells or len(distinct)
        self.num_segments = min(num_segments, self.num_cells)
        place = {t: i * self.num_cells // len(distinct) for i, t in enumerate(distinct)}
        self.cell_of_step = tuple(place[t] for t in floored)
        #: the timesteps to choose from, falling; none where they are given
        self.levels: tuple[float, ...] = ()
        self.own_times: tuple[int, ...] = ()
        if levels is not None:
            self._set_levels(levels, floored)

    def _set_levels(self, levels: int, floored: Sequence[int]) -> None:
        if levels < len(floored):
            raise ValueError(f'SearchSpace: levels={levels} must be at least {len(floored)}, the number of steps.')
        if len(set(floored)) < len(floored):
            raise ValueError('SearchSpace: the sampler takes several steps at one timestep, so its timesteps cannot be '
                             'searched. Take one of a step each, such as DPMSolverMultistepScheduler.')
        # Whole ones of a diffusion, which some samplers put between.
        own = dict(zip(floored, self.timesteps if self.process != PROCESSES[0] else map(float, floored)))
        spread = (round((i + 0.5) * self.num_train_timesteps / levels) for i in range(levels))
        grid = {t: float(t) for t in spread if 0 < t < self.num_train_timesteps} | own
        self.levels = tuple(grid[t] for t in sorted(grid, reverse=True))
        self.own_times = tuple(self.levels.index(own[t]) for t in floored)

    # ---- genomes and allocations ------------------------------------------------------------------------------

    def uniform(self, action: int) -> Genome:
        """One action (an index of :attr:`actions`) throughout."""
        return Genome((), (action, ), self.own_times)

    def uniforms(self) -> list[Genome]:
        """One run throughout, for every width and depth."""
        return [self.uniform(i) for i in range(len(self.runs))]

    def per_cell(self, genome: Genome) -> list[int]:
        """The action of each cell."""
        edges = [0, *genome.boundaries, self.num_cells]
        return [action for action, (a, b) in zip(genome.actions, itertools.pairwise(edges)) for _ in range(b - a)]

    def from_cells(self, actions: Sequence[int], times: Sequence[int] = ()) -> Genome:
        """The canonical genome with these actions in the cells; repaired if there are too many segments."""
        groups = [(action, len(list(cells))) for action, cells in itertools.groupby(actions)]
        ends = list(itertools.accumulate(length for _, length in groups))
        return self.repair(ends[:-1], [action for action, _ in groups], times)

    def decode(self, genome: Genome) -> StepAllocation:
        """The allocation that a genome stands for; with timesteps of its own, where these are searched."""
        cells = self.per_cell(genome)
        times = tuple(self.levels[i] for i in genome.times) or self.timesteps
        found = StepAllocation.from_steps([self.actions[cells[cell]] for cell in self.cell_of_step], times,
                                          self.num_train_timesteps, self.process)
        return dataclasses.replace(found, timesteps=times) if genome.times else found

    # ---- the whole space --------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Number of distinct allocations: sum over k segments of C(cells - 1, k - 1) R (A - 1)^(k - 1), times the
        choices of timesteps."""
        first, others = len(self.runs), len(self.actions) - 1
        return math.comb(len(self.levels), len(self.own_times)) * sum(
            math.comb(self.num_cells - 1, k - 1) * first * others**(k - 1) for k in range(1, self.num_segments + 1))

    def enumerate(self) -> Iterator[Genome]:
        """Every canonical genome once; for small spaces (see :attr:`size`)."""
        for k in range(1, self.num_segments + 1):
            for boundaries in itertools.combinations(range(1, self.num_cells), k - 1):
                for actions in itertools.product(range(len(self.actions)), repeat=k):
                    if actions[0] < len(self.runs) and all(a != b for a, b in itertools.pairwise(actions)):
                        for times in itertools.combinations(range(len(self.levels)), len(self.own_times)):
                            yield Genome(boundaries, actions, times)

    # ---- operators --------------------------------------------------------------------------------------------

    def repair(self, boundaries: Sequence[int], actions: Sequence[int], times: Sequence[int] = ()) -> Genome:
        """The canonical genome nearest to any integers: ``actions`` one longer than ``boundaries``, and ``times`` (by
        default the sampler's own) as many as steps, where they are searched.

        Boundaries are clipped and sorted, empty segments dropped, equal neighbours merged, a first segment with nothing
        to reuse gets the next width; while there are too many segments, the shortest goes to its longer neighbour.
        Times are clipped and sorted, and those that coincide move apart.
        """
        edges = [0, *sorted(min(max(int(b), 0), self.num_cells) for b in boundaries), self.num_cells]
        segments = [[b - a, int(action)] for action, (a, b) in zip(actions, itertools.pairwise(edges)) if b > a]
        while True:
            if segments[0][1] >= len(self.runs):
                segments[0][1] = next((a for _, a in segments if a < len(self.runs)), len(self.runs) - 1)
            merged = segments[:1]
            for length, action in segments[1:]:
                if action == merged[-1][1]:
                    merged[-1][0] += length
                else:
                    merged.append([length, action])
            segments = merged
            if len(segments) <= self.num_segments:
                break
            i = min(range(len(segments)), key=lambda k: segments[k][0])
            neighbours = [k for k in (i - 1, i + 1) if 0 <= k < len(segments)]
            segments[max(neighbours, key=lambda k: segments[k][0])][0] += segments[i][0]
            del segments[i]
        ends = list(itertools.accumulate(length for length, _ in segments))
        return Genome(tuple(ends[:-1]), tuple(action for _, action in segments), self._distinct(times))

    def _distinct(self, times: Sequence[int]) -> tuple[int, ...]:
        """``times`` sorted and apart: each is moved up past the one before, then down where the levels end."""
        if not self.levels:
            return ()
        found = sorted(min(max(int(t), 0), len(self.levels) - 1) for t in times) or list(self.own_times)
        for i in range(1, len(found)):
            found[i] = max(found[i], found[i - 1] + 1)
        for i in range(len(found)):
            found[i] = min(found[i], len(self.levels) - len(found) + i)
        return tuple(found)

    def random(self, rng: np.random.Generator) -> Genome:
        """A number of segments, boundaries and actions, each drawn evenly.

        Not even over the allocations: nearly all of these have the largest number of segments.
        """
        k = int(rng.integers(1, self.num_segments + 1))
        boundaries = rng.choice(self.num_cells - 1, k - 1, replace=False) + 1 if k > 1 else []
        first = rng.integers(len(self.runs))
        times = ()
        if self.levels and rng.random() < 0.5:  # half of them keep the sampler's own
            times = rng.choice(len(self.levels), len(self.own_times), replace=False)
        return self.repair(list(boundaries), [first, *rng.integers(len(self.actions), size=k - 1)], times)

    def crossover(self, one: Genome, two: Genome, rng: np.random.Generator) -> Genome:
        """One parent, with an interval of the grid drawn evenly from the other: its actions and its timesteps there."""
        start, stop = sorted(rng.choice(self.num_cells + 1, 2, replace=False).tolist())
        first, second = self.per_cell(one), self.per_cell(two)
        times = [b if start <= cell < stop else a for cell, a, b in zip(self.cell_of_step, one.times, two.times)]
        return self.from_cells(first[:start] + second[start:stop] + first[stop:], times)

    def mutate(self, genome: Genome, rng: np.random.Generator, probability: float | None = None) -> Genome:
        """Change each gene with ``probability``, independently; by default one change, its kind drawn evenly.

        This is a probability *per gene*: DDSM gave pymoo a ``prob`` of 0.1 that is per individual and left
        ``prob_var``, which is per gene, at a thousandth. The genes are

        * each boundary: it moves by 1, 2, 3, ... cells, half as likely each time, either way;
        * each action: a width becomes the next narrower or wider half of the time, else any other action is drawn;
        * an interval of the grid, drawn evenly, gets another action: segments are cut, joined or made;
        * each timestep, where they are searched: it moves by 1, 2, 3, ... levels, half as likely each time, either way.
        """
        boundaries, actions, times = list(genome.boundaries), list(genome.actions), list(genome.times)
        if times:
            one = int(rng.integers(len(times)))
            only = probability is None and (len(self.actions) == 1 or rng.random() < 0.5)
            for i in range(len(times)):
                if (only and i == one) if probability is None else rng.random() < probability:
                    step = int(rng.geometric(0.5)) * (1 if rng.random() < 0.5 else -1)
                    times[i] = self._moved(times, i, step)
            genome = genome._replace(times=self._distinct(times))
            if only:
                return genome
        if probability is None:
            kind = int(rng.integers(3))
            moved = [int(rng.integers(len(boundaries)))] if kind == 0 and boundaries else []
            changed = [int(rng.integers(len(actions)))] if kind == 1 else []
            interval = not moved and not changed
        else:
            moved = [i for i in range(len(boundaries)) if rng.random() < probability]
            changed = [i for i in range(len(actions)) if rng.random() < probability]
            interval = rng.random() < probability
        for i in moved:
            boundaries[i] += int(rng.geometric(0.5)) * (1 if rng.random() < 0.5 else -1)
        for i in changed:
            actions[i] = self._other(actions[i], rng)
        genome = self.repair(boundaries, actions, times)
        if not interval:
            return genome
        cells = self.per_cell(genome)
        start, stop = sorted(rng.choice(self.num_cells + 1, 2, replace=False).tolist())
        cells[start:stop] = [self._other(cells[start], rng)] * (stop - start)
        return self.from_cells(cells, times)

    def _moved(self, times: Sequence[int], i: int, step: int) -> int:
        """Where the i-th time goes: not beyond its neighbours."""
        low = times[i - 1] + 1 if i else 0
        high = times[i + 1] - 1 if i + 1 < len(times) else len(self.levels) - 1
        return min(max(times[i] + step, low), high)

    def _other(self, action: int, rng: np.random.Generator) -> int:
        if len(self.actions) == 1:
            return action
        if action < len(self.runs) and rng.random() < 0.5:
            near = [a for a in (action - 1, action + 1) if 0 <= a < len(self.runs)]
            if near:
                return near[int(rng.integers(len(near)))]
        return int((action + 1 + rng.integers(len(self.actions) - 1)) % len(self.actions))
