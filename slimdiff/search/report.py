"""A search as pictures: the front while it grows, and one HTML page that needs nothing but itself."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from slimdiff.evaluation.cost import human
from slimdiff.evaluation.figures import save_figure
from slimdiff.evaluation.page import data_uri, grid_uri, write_page
from slimdiff.sampling import Run, StepAllocation
from slimdiff.sampling.images import image_grid, to_uint8
from slimdiff.search import Evaluation, Outcome, SamplingEvaluator, Search

REUSE_COLOURS = {'prediction': '#d9534f', 'features': '#f0ad4e'}


def plot_front(candidates: Sequence[Evaluation], front: Sequence[Evaluation], path: str | Path | io.BytesIO,
               quality: str, full_macs: float, chosen: Evaluation | None = None,
               limit: float | None = None) -> None:
    """Quality against MACs: all candidates, the front as steps, the budget and what was chosen within it.

    Args:
        path: a PNG file, written whole or not at all, or a buffer.
        quality: name of the vertical axis.
        full_macs: of the full network, for the horizontal axis.
        limit: budget in MACs.
    """
    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axes = figure.subplots()
    judged = [e for e in candidates if not e.failed]
    axes.scatter([e.macs / full_macs for e in judged], [e.quality for e in judged], s=12, color='#9bb8d3',
                 label=f'{len(judged)} candidates')
    axes.step([e.macs / full_macs for e in front], [e.quality for e in front], where='post', color='#1f4e79',
              marker='o', markersize=3, label=f'front ({len(front)})')
    if chosen is not None:
        axes.plot(chosen.macs / full_macs, chosen.quality, '*', color='#e08e0b', markersize=14, label='chosen')
    if limit is not None:
        axes.axvline(limit / full_macs, color='#e08e0b', linestyle=':', label='budget')
    positive = [e.quality for e in judged if e.quality > 0]
    if len(positive) > 2 and max(positive) > 30 * min(positive):
        axes.set_yscale('log', nonpositive='clip')
    axes.set(xlabel='MACs of an image, full network = 1', ylabel=f'{quality} (lower is better)')
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    if isinstance(path, io.BytesIO):
        figure.savefig(path, format='png', dpi=100)
    else:
        save_figure(figure, path)


def plot_search(search: Search, path: str | Path) -> None:
    """The front so far, of a running search."""
    best = search.best()
    limit = search.budget.limit if search.budget is not None and search.budget.kind == 'macs' else None
    plot_front(list(search.judged.values()), [e for _, e in search.searcher.front], path,
               type(search.evaluators[-1]).__name__, search.full_macs, None if best is None else best[1], limit)


def allocation_svg(allocation: StepAllocation, timesteps: Sequence[float], width: int = 720, height: int = 56) -> str:
    """Bars over the timesteps, noisiest left: the height is the share of the network that runs, colours are reuses.

    Ticks below are the sampler's steps.
    """
    total = allocation.num_train_timesteps
    parts, last = [], 1.0
    for segment in reversed(allocation.segments):
        action = segment.action
        last = action.share if isinstance(action, Run) else last
        x, span = (total - segment.stop) / total * width, (segment.stop - segment.start) / total * width
        tall = last * (height - 16) if isinstance(action, Run) else 6
        colour = '#4a86b8' if isinstance(action, Run) else REUSE_COLOURS[action.what]
        parts.append(f'<rect x="{x:.1f}" y="{height - 12 - tall:.1f}" width="{span:.1f}" height="{tall:.1f}" '
                     f'fill="{colour}" stroke="white"><title>{segment.stop - 1}..{segment.start}: {action}</title>'
                     '</rect>')
        if isinstance(action, Run) and span > 30:
            # Inside the bar, or above one that is too low for a line of text.
            y, ink = (height - 16, 'white') if tall >= 14 else (height - 16 - tall, '#444')
            parts.append(f'<text x="{x + span / 2:.1f}" y="{y:.1f}" font-size="11" fill="{ink}" '
                         f'text-anchor="middle">{action.size}</text>')
    ticks = ' '.join(f'M{(total - t) / total * width:.1f} {height - 10}v4' for t in timesteps)
    return (f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">{"".join(parts)}'
            f'<path d="{ticks}" stroke="#888"/></svg>')


class _Images(SamplingEvaluator):
    """Samples, and judges nothing."""

    def measure(self, allocations: Sequence[StepAllocation]) -> list[float]:
        raise NotImplementedError


def sample_grids(search: Search, allocations: Mapping[str, StepAllocation], num_images: int = 16) -> dict[str, Tensor]:
    """Images of the same indices and seed under each allocation, as grids (3, H, W) uint8."""
    sampler = _Images(num_images).bind(search.problem)
    names, grids = list(allocations), {}
    with torch.inference_mode():
        for members, x0 in sampler.samples(list(allocations.values()), range(num_images)):
            images = to_uint8(search.model.decode(x0)).cpu()
            grids |= {names[i]: image_grid(images, columns=8) for i in members}
    return {name: grids[name] for name in names}


def few_of(outcome: Outcome, count: int = 6) -> list[int]:
    """Indices of about ``count`` points of the front, evenly, both ends and the chosen one among them."""
    last = len(outcome.front) - 1
    picked = {round(i * last / max(count - 1, 1)) for i in range(count)}
    picked |= {i for i, (allocation, _) in enumerate(outcome.front) if allocation == outcome.chosen[0]}
    return sorted(picked)


def write_report(search: Search, outcome: Outcome, path: str | Path, num_images: int = 16,
                 title: str = 'Search') -> None:
    """Write one HTML file with the front, its allocations, samples at equal seeds and what the search cost.

    Everything is in the file: it opens from the disk, without a network.

    Args:
        num_images: in each grid; 0 leaves them out.
    """
    buffer = io.BytesIO()
    limit = outcome.budget.limit if outcome.budget is not None and outcome.budget.kind == 'macs' else None
    plot_front([e for _, e in outcome.candidates], [e for _, e in outcome.front], buffer, outcome.evaluator,
               outcome.full_macs, outcome.chosen[1], limit)
    few = few_of(outcome)
    timed = outcome.front[0][1].latency is not None
    rows = [('MACs of an image', 'of the full network', 'quality', *(['seconds of an image'] if timed else []),
             'steps, noisiest first')]
    for allocation, e in outcome.front:
        rows.append((human(e.macs), f'{e.macs / outcome.full_macs:.1%}', f'{e.quality:.5g}',
                     *([f'{e.latency:.4g}'] if timed else []), outcome.row((allocation, e))['steps']))
    place = next((i for i, (a, _) in enumerate(outcome.front) if a == outcome.chosen[0]), None)
    share = {i: f'{outcome.front[i][1].macs / outcome.full_macs:.1%} of the MACs' for i in few}
    bars = [(allocation_svg(outcome.front[i][0], outcome.front[i][0].timesteps or outcome.timesteps),
             f'{share[i]}, quality {outcome.front[i][1].quality:.5g}{" (chosen)" if i == place else ""}') for i in few]
    grids: dict[str, Tensor] = {}
    if num_images:
        full = StepAllocation.uniform(max(search.problem.costs.macs_of), search.space.num_train_timesteps,
                                      search.space.process)
        shown = {'full network': full, 'chosen': outcome.chosen[0]}
        shown |= {share[i]: outcome.front[i][0] for i in few[:-1] if i != place}
        grids = sample_grids(search, shown, num_images)
    costs = [('evaluator', 'network MACs', 'network calls', 'saved calls', 'generated images', 'seconds')]
    costs += [(name, human(w.macs), w.calls, w.calls_saved, w.images, f'{w.seconds:.1f}')
              for name, w in [*outcome.work.items(), ('all', outcome.total_work)]]
    correlations = [(pair, 'undefined' if v is None else f'{v:.3f}') for pair, v in outcome.correlations.items()]
    write_page(
        'search/report.html.j2', path, title=title, summary=outcome.describe().splitlines()[1],
        front_image=data_uri(buffer.getvalue()),
        allocations=bars, costs=costs, outcome=outcome, front=rows, chosen=place,
        samples=[(name, grid_uri(grid), grid.shape[2] * max(1, 340 // grid.shape[2]))
                 for name, grid in grids.items()],
        correlations=correlations and [('evaluators', 'rank correlation'), *correlations])
