"""Sample under every rival with the same noise, in turns, and measure images and seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch.utils.data import DataLoader

from slimdiff.evaluation.common import concatenate, evaluating
from slimdiff.evaluation.evaluate import collect_real, default_labels, quantise
from slimdiff.evaluation.metrics.base import SetMetric
from slimdiff.evaluation.throughput import spread
from slimdiff.progress import Progress
from slimdiff.search.comparison.rivals import Rival

#: the rival that the others' seconds are compared with
FULL = 'full'


def compare(rivals: Mapping[str, Rival],
            sampler: Mapping[str, Any],
            num_steps: int,
            metrics: Sequence[SetMetric],
            dataloader: DataLoader,
            num_images: int = 1000,
            num_real: int | None = None,
            batch_size: int = 100,
            seed: int = 0,
            name: str = 'comparing') -> dict[str, dict[str, Any]]:
    """One table: what each rival's images are worth and cost under one sampler.

    Image i has the same noise and label under all rivals, so their figures differ by less than sampling noise. The
    rivals take turns batch by batch; a speed-up is the median ratio of the seconds of the same batch, which a machine
    that is busy with other things disturbs less than the seconds themselves.

    Args:
        rivals: one of them called ``full``, with which the seconds are compared.
        sampler: config of a scheduler, built on each model's noise schedule.
        num_steps: of it.
        metrics: built; they keep the real images' statistics from call to call.
        dataloader: of real images.
        num_images, batch_size, seed: of the generated ones.
        num_real: real images; the whole data set by default.
        name: of the progress.

    Returns:
        ``{rival: dict(macs=..., seconds=..., speed_up=dict(median, q25, q75), figures={...})}``: MACs and seconds for
        one image, the median over the batches.

    Raises:
        ValueError: no rival called ``full``, too few images for a metric, NaN among the generated ones.
    """
    if FULL not in rivals:
        raise ValueError(f"compare: one of the rivals must be called '{FULL}'; got {', '.join(rivals)}.")
    for metric in metrics:
        if num_images < metric.minimum:
            raise ValueError(f'{type(metric).__name__} needs at least {metric.minimum} images, got {num_images}.')
    schedulers = {key: rival.scheduler(sampler, num_steps) for key, rival in rivals.items()}
    collect_real(dataloader, metrics, num_real)
    macs = {key: rival.macs(schedulers[key], num_steps) for key, rival in rivals.items()}
    rows: dict[str, list[list[dict]]] = {key: [[] for _ in metrics] for key in rivals}
    seconds: dict[str, list[float]] = {key: [] for key in rivals}

    def images_of(key: str, indices: Sequence[int]) -> torch.Tensor:
        rival = rivals[key]
        with rival.sampling():
            return quantise(rival.model.sample(list(indices), seed=seed, scheduler=dict(sampler),
                                               num_steps=num_steps)).cpu()

    with ExitStack() as stack:
        for model in {id(rival.model): rival.model for rival in rivals.values()}.values():
            stack.enter_context(evaluating(model, False))
        bar = stack.enter_context(Progress(num_images * len(rivals), name))
        for key in rivals:  # the first calls are slower
            images_of(key, range(min(2, num_images)))
        for number, start in enumerate(range(0, num_images, batch_size)):
            indices = range(start, min(start + batch_size, num_images))
            for key in list(rivals)[::1 if number % 2 == 0 else -1]:
                begin = time.perf_counter()
                images = images_of(key, indices)
                seconds[key].append((time.perf_counter() - begin) / len(indices))
                if not torch.isfinite(images).all():
                    raise ValueError(f"The images of '{key}' hold NaN or infinity.")
                for metric, kept in zip(metrics, rows[key]):
                    kept.append(metric.rows_of(images.float(), default_labels(rivals[key].model, indices)))
                bar.update(len(indices))
    found = {}
    for key in rivals:
        figures: dict[str, float] = {}
        for metric, kept in zip(metrics, rows[key]):
            figures |= metric.distance(metric.rows(True), concatenate(kept))
        ratios = [a / b for a, b in zip(seconds[FULL], seconds[key])]
        found[key] = dict(macs=macs[key], seconds=spread(seconds[key])['median'], speed_up=spread(ratios),
                          figures=figures)
    return found
