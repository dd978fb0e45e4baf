"""The cheapest rung: how much more each width errs than the widest, bin of timesteps by bin."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import torch
from mmengine.dist import is_main_process
from torch import Tensor

from slimdiff.evaluation.common import run_on_rank0
from slimdiff.evaluation.metrics.denoising import BandwiseDenoisingError
from slimdiff.models.backbones.protocol import at_run
from slimdiff.registry import EVALUATORS
from slimdiff.sampling import Run
from slimdiff.search.evaluators.additive import AdditiveEvaluator
from slimdiff.tables import text_table


@EVALUATORS.register_module()
class LossGapEvaluator(AdditiveEvaluator):
    """Quality = mean over the sampling steps of error(width) - error(widest) in the step's bin of timesteps.

    The error is the paired band-wise denoising error: mean squared error of the predicted noise on real images, every
    width with the same images, timesteps and noise
    (:class:`~slimdiff.evaluation.metrics.BandwiseDenoisingError`). It needs no sampling: one pass over some images
    for each width judges every allocation there is. It is additive over the steps, so
    :class:`~slimdiff.search.searchers.DynamicProgramming` finds its exact optimum for every budget. What it can't see
    is how errors of early steps are corrected or carried on by later ones; the rank correlation with a more expensive
    evaluator, which a search prints, says how far to trust it. Allocations with a reuse have no such gap: they fail.

    Args:
        num_images: real images; all by default.
        num_bins: of equal numbers of timesteps.
        draws: timesteps for each image, bin and width.
        band_edges, band_weights: of the radial frequency bands, in cycles per pixel, and what an error in each
            counts. All count 1 by default, which is the plain mean squared error.
        bin_weights: what a step counts by its bin, from the clean end; all 1 by default.
        seed: of timesteps and noise.
        amp: bf16 autocast.

    Raises:
        ValueError: weights that don't fit the bands or bins.
    """

    uses_data = True

    def __init__(self,
                 num_images: int | None = None,
                 num_bins: int = 10,
                 draws: int = 1,
                 band_edges: Sequence[float] = (0.125, 0.25),
                 band_weights: Sequence[float] | None = None,
                 bin_weights: Sequence[float] | None = None,
                 seed: int = 0,
                 amp: bool = False) -> None:
        for name, weights, count in (('band_weights', band_weights, len(band_edges) + 1),
                                     ('bin_weights', bin_weights, num_bins)):
            if weights is not None and (len(weights) != count or min(weights) < 0):
                raise ValueError(f'LossGapEvaluator: {name}={list(weights)} must be {count} numbers of 0 or more.')
        self.num_images, self.num_bins, self.draws, self.seed, self.amp = num_images, num_bins, draws, seed, amp
        self.band_edges = list(band_edges)
        self.band_weights = [1.0] * (len(band_edges) + 1) if band_weights is None else list(band_weights)
        self.bin_weights = [1.0] * num_bins if bin_weights is None else list(bin_weights)

    def prepare(self) -> None:
        problem = self.problem
        total = problem.model.num_train_timesteps
        self._edges = [total * i // self.num_bins for i in range(self.num_bins + 1)]
        metric = BandwiseDenoisingError(self.num_images, self._edges, self.band_edges,
                                        [str(i) for i in range(len(self.band_weights))], self.draws, self.seed,
                                        amp=self.amp)
        weights = torch.tensor(self.band_weights, dtype=torch.float64)
        self._runs = sorted(problem.costs.macs_of)
        errors = []
        for run in self._runs:
            key = self.key(f'errors at {run}')
            found = run_on_rank0(lambda key=key: None if problem.cache is None else problem.cache.get(key, ['errors']))
            if found is None:
                with at_run(problem.model.unet, run):
                    found = {'errors': metric.table(problem.model, problem.dataloader,
                                                    f'denoising error at {run}').contiguous()}
                # The table is that of all ranks, so one of them counts.
                calls = len(found['errors']) * self.num_bins * self.draws * is_main_process()
                self._work.calls += calls
                self._work.macs += calls * problem.costs.macs_of[run]
                if problem.cache is not None:
                    problem.cache.put(key, found)
            errors.append(found['errors'].double() @ weights)  # (N, bins)
        self._errors = torch.stack(errors, 2)  # (N, bins, runs)

    @property
    def runs(self) -> list[Run]:
        """The columns of :attr:`table`."""
        return self._runs

    @property
    def edges(self) -> list[int]:
        """Bin i, row i of :attr:`table`, is ``edges[i] <= t < edges[i + 1]``."""
        return self._edges

    @property
    def table(self) -> Tensor:
        """Gap to the widest and deepest, (bins, runs) float64; NaN where one gave NaN."""
        return self._gaps.mean(0)

    @property
    def stderr(self) -> Tensor:
        """Standard errors of :attr:`table`, (bins, runs), of paired differences over the images."""
        return self._gaps.std(0) / len(self._gaps)**0.5

    @property
    def _gaps(self) -> Tensor:
        return self._errors - self._errors[:, :, -1:]

    def per_step(self) -> list[dict[Run, float]]:
        """What each sampling step adds to the quality, by width and depth."""
        table = self.table.tolist()
        # The last timestep of a flow, the end of the last bin, belongs to it.
        bins = [bisect.bisect_right(self._edges[:-1], t) - 1 for t in self.problem.timesteps]
        return [{run: self.bin_weights[b] * table[b][i] / len(bins) for i, run in enumerate(self._runs)}
                for b in bins]

    def describe(self) -> str:
        """Text table of gaps and standard errors, in thousandths."""
        rows = []
        for b, (gaps, errors) in enumerate(zip((1e3 * self.table).tolist(), (1e3 * self.stderr).tolist())):
            rows.append((f'{self._edges[b]}..{self._edges[b + 1] - 1}',
                         *(f'{gap:.3f} +- {error:.3f}' for gap, error in zip(gaps, errors))))
        return text_table(['timesteps', *map(str, self._runs)], rows, left=0)
