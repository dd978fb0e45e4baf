"""The most expensive evaluator: a distance between generated and real images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, get_world_size, is_main_process

from slimdiff.arguments import plain
from slimdiff.evaluation.common import concatenate
from slimdiff.evaluation.evaluate import collect_real, quantise
from slimdiff.evaluation.metrics.base import SetMetric
from slimdiff.registry import EVALUATORS, METRICS
from slimdiff.sampling import StepAllocation
from slimdiff.search.evaluators.sampling import SamplingEvaluator


@EVALUATORS.register_module()
class FrechetEvaluator(SamplingEvaluator):
    """Quality = a metric of the images that an allocation generates: Frechet distance, FID, or another of sets.

    The images of all allocations start from the same noise. A Frechet distance is biased upwards by few images, all
    allocations alike; it orders them with far fewer images than a figure to be published needs.

    Args:
        metric: config of a registered set metric; its first figure is the quality.
        num_real: real images; the whole data set by default.
        num_images, batch_size, seed, amp: see
            :class:`~slimdiff.search.evaluators.sampling.SamplingEvaluator`.

    Raises:
        ValueError: a metric that doesn't compare sets of images, or too few images for it.
    """

    uses_data = True
    moves_timesteps = True

    def __init__(self,
                 metric: Mapping[str, Any] = dict(type='FrechetDistance'),
                 num_images: int = 1000,
                 num_real: int | None = None,
                 batch_size: int = 64,
                 seed: int = 0,
                 amp: bool = False) -> None:
        super().__init__(num_images, batch_size, seed, amp)
        self.metric, self.num_real = plain(metric), num_real

    def prepare(self) -> None:
        super().prepare()
        self._metric = METRICS.build(self.metric)
        if not isinstance(self._metric, SetMetric) or self._metric.labelled:
            raise ValueError(f'FrechetEvaluator: {type(self._metric).__name__} does not compare sets of images; give '
                             'a metric that does, such as FrechetDistance or FID.')
        if self.num_images < self._metric.minimum:
            raise ValueError(f'FrechetEvaluator: num_images={self.num_images} are too few for '
                             f'{type(self._metric).__name__}; it needs {self._metric.minimum}.')
        collect_real(self.problem.dataloader, [self._metric], self.num_real)
        self._real = self._metric.rows(True)
        if get_world_size() > 1:  # they have been gathered on the main process, but each rank judges its own candidates
            box = [self._real if is_main_process() else None]
            broadcast_object_list(box)
            self._real = box[0]

    def measure(self, allocations: Sequence[StepAllocation]) -> list[float]:
        rows: list[list[dict]] = [[] for _ in allocations]
        broken: set[int] = set()
        for batch in self.shown_batches('judging'):
            for members, x0 in self.samples(allocations, batch):
                images = quantise(self.problem.model.decode(x0))
                if not torch.isfinite(images).all():
                    broken.update(members)
                    continue
                with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
                    found = self._metric.statistics(images.float())
                for member in members:
                    rows[member].append({name: value.detach().cpu() for name, value in found.items()})
        return [math.nan if i in broken else self._figure(part) for i, part in enumerate(rows)]

    def _figure(self, rows: list[dict]) -> float:
        return next(iter(self._metric.distance(self._real, concatenate(rows)).values()))
