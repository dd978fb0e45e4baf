"""A picture of step allocations: which width each denoising step has, and what that saves.

Multiply-accumulates (MACs) are those of the published convention: convolutions and linear layers.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slimdiff.evaluation.cost import human
from slimdiff.evaluation.figures import save_figure
from slimdiff.sampling.actions import Action, ByRun, Run
from slimdiff.sampling.allocation import StepAllocation
from slimdiff.search.costs import NetworkCosts
from slimdiff.tables import markdown_table

COLORS = {'run': 'tab:blue', 'prediction': 'tab:red', 'features': 'tab:orange'}
MEANINGS = {'run': 'runs', 'prediction': 'reuses the prediction', 'features': 'reuses deep features'}


@dataclasses.dataclass(frozen=True)
class Done:
    """What a sampling step does.

    Args:
        timestep: of the step.
        action: done; a reuse with nothing to reuse has become a run.
        run: of this step, or the last one.
        macs: for one image, guidance not counted.
    """
    timestep: float
    action: Action
    run: Run
    macs: float

    @property
    def kind(self) -> str:
        return 'run' if isinstance(self.action, Run) else self.action.what


def steps_done(allocation: StepAllocation, timesteps: Sequence[float], macs_of: Mapping[Run | float, float],
               shallow_of: Mapping[Run | float, float] | None = None) -> list[Done]:
    """The steps of a sampling, as :class:`~slimdiff.StepAwareUNet` takes them; their MACs add up to
    :meth:`StepAllocation.macs <slimdiff.sampling.allocation.StepAllocation.macs>`.

    Args:
        timesteps: in the sampler's order, the noisiest first.
        macs_of: run (or width) -> MACs of a network call.
        shallow_of: run (or width) -> MACs of the shallow part.
    """
    macs_of, shallow_of = ByRun(macs_of), ByRun(shallow_of or {})
    steps: list[Done] = []
    for t, action in zip(timesteps, allocation.taken(timesteps)):
        run = action if isinstance(action, Run) else steps[-1].run
        if isinstance(action, Run):
            macs = macs_of[run]
        else:
            macs = 0.0 if action.what == 'prediction' else shallow_of[run]
        steps.append(Done(float(t), action, run, float(macs)))
    return steps


def saving(allocation: StepAllocation, timesteps: Sequence[float], costs: NetworkCosts) -> tuple[float, float, float]:
    """MACs for one image, those of the full network at every step, and the share of them that is saved."""
    spent = costs.macs(allocation, timesteps)
    full = costs.full(timesteps)
    return spent, full, 1 - spent / full


def allocation_table(allocations: Mapping[str, StepAllocation], timesteps: Sequence[float],
                     costs: NetworkCosts) -> str:
    """Markdown: MACs for one image and what is saved, one row for each allocation."""
    rows = []
    for name, allocation in allocations.items():
        spent, _, saved = saving(allocation, timesteps, costs)
        runs = ', '.join(run.size for run in allocation.runs)
        rows.append((name, runs, human(spent), f'{100 * saved:.1f} %'))
    return markdown_table(('allocation', 'widths', 'MACs per image', 'fewer than full'), rows)


def plot_allocations(allocations: Mapping[str, StepAllocation], timesteps: Sequence[float], costs: NetworkCosts,
                     path: str | Path) -> None:
    """A row for each allocation: width of every step, and MACs so far against the full network's.

    Args:
        allocations: by the name that a row is given.
        timesteps: of the sampler, the noisiest first.
        costs: of the network at each run of an allocation, and at the full one.
    """
    figure = Figure(figsize=(9.5, 0.5 + 2.1 * len(allocations)), layout='constrained')
    rows = figure.subplots(len(allocations), 2, sharex='col', squeeze=False, width_ratios=(2, 1))
    for (left, right), (name, allocation) in zip(rows, allocations.items()):
        steps = steps_done(allocation, timesteps, costs.macs_of, costs.shallow_of)
        plot_widths(left, allocation, steps)
        spent, full, saved = saving(allocation, timesteps, costs)
        left.set_title(name, fontsize=10, loc='left')
        plot_macs(right, [costs.calls_per_step * step.macs for step in steps], full / len(steps))
        right.set_title(f'{100 * saved:.1f} % fewer MACs: {human(spent)} of {human(full)}', fontsize=9, loc='left')
    rows[-1, 0].set_xlabel('training timestep, from noise to image')
    rows[-1, 1].set_xlabel('denoising step')
    kinds = {_kind(segment.action) for allocation in allocations.values() for segment in allocation.segments}
    rows[0, 0].legend(handles=[rows[0, 0].plot([], [], 'o', color=COLORS[kind], markersize=4, label=label)[0]
                               for kind, label in MEANINGS.items() if kind in kinds], fontsize=8)
    save_figure(figure, path)


def _kind(action: Action) -> str:
    return 'run' if isinstance(action, Run) else action.what


def plot_widths(axis: Axes, allocation: StepAllocation, steps: Sequence[Done]) -> None:
    """Segments as a staircase, steps as dots on it; a reuse stands at the last run."""
    label = 'width' if all(run.depth == 1 for run in allocation.runs) else 'width x depth'
    last = math.nan
    for segment in reversed(allocation.segments):
        last = segment.action.share if isinstance(segment.action, Run) else last
        axis.fill_between([segment.start, segment.stop], 0, last, color=COLORS[_kind(segment.action)], alpha=0.25,
                          linewidth=0)
    for kind, color in COLORS.items():
        found = [step for step in steps if step.kind == kind]
        axis.plot([step.timestep for step in found], [step.run.share for step in found], 'o', color=color,
                  markersize=4 if len(steps) <= 100 else 1.5)
    margin = allocation.num_train_timesteps / 100
    axis.set(ylim=(0, 1.08), ylabel=label, xlim=(allocation.num_train_timesteps + margin, -margin))
    axis.grid(alpha=0.3)


def plot_macs(axis: Axes, macs: Sequence[float], full: float) -> None:
    """MACs up to each step, and those of the full network."""
    unit, size = ('G', 1e9) if full * len(macs) >= 1e9 else ('M', 1e6)
    numbers = range(len(macs) + 1)
    ours = [value / size for value in itertools.accumulate(macs, initial=0.0)]
    theirs = [full * n / size for n in numbers]
    axis.plot(numbers, theirs, '--', color='gray', label='full network')
    axis.plot(numbers, ours, color=COLORS['run'], label='allocation')
    axis.fill_between(numbers, ours, theirs, color='gray', alpha=0.12, linewidth=0)
    axis.set(ylabel=f'{unit} MACs so far', xlim=(0, len(macs)), ylim=(0, None))
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
