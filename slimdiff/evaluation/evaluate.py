"""Evaluate a model: real images from a loader against generated ones, and the floor of real against real."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import DataLoader

from slimdiff.evaluation.common import check_classes, evaluating, gather_rows, run_on_rank0, shard, shard_loader
from slimdiff.evaluation.metrics.base import ModelMetric, SetMetric
from slimdiff.progress import Progress
from slimdiff.registry import METRICS

Metric = SetMetric | ModelMetric


def build_metrics(metrics: Sequence[Mapping[str, Any] | Metric] | Mapping[str, Any] | Metric) -> list[Metric]:
    """Build metrics from configs; one alone and metrics already built are fine.

    Raises:
        RegistryError: an unknown type or argument.
        ValueError: something that is no metric of slimdiff.
    """
    if isinstance(metrics, (Mapping, SetMetric, ModelMetric)):
        metrics = [metrics]
    built = [METRICS.build(metric) for metric in metrics]
    for metric in built:
        if not isinstance(metric, (SetMetric, ModelMetric)):
            raise ValueError(f'{type(metric).__name__} is neither a SetMetric nor a ModelMetric: derive it from one of '
                             'them (slimdiff.evaluation.metrics).')
    return built


def quantise(images: Tensor) -> Tensor:
    """Round [-1, 1] to the 256 values that a saved image can hold; real images came from such files."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1


def check_counts(num_images: int, batch_size: int, num_real: int | None) -> None:
    if num_images < 1 or batch_size < 1 or (num_real is not None and num_real < 1):
        raise ValueError(f'evaluate: num_images={num_images}, batch_size={batch_size} and num_real={num_real} must be '
                         'at least 1.')


def evaluate(model: Any,
             dataloader: DataLoader,
             metrics: Sequence[Mapping[str, Any] | Metric],
             num_images: int = 1000,
             batch_size: int = 64,
             seed: int = 0,
             sampling: Mapping[str, Any] | None = None,
             num_real: int | None = None,
             amp: bool = False,
             progress: bool = True) -> dict[str, float]:
    """Sample images, compare them with real ones and return all figures in one flat dict.

    All ranks must call it; each samples its part, and the figures are those of one process (image i depends on
    (seed, i) alone). They are the same on all ranks.

    Args:
        model: has ``sample(indices, seed=..., **sampling)``, and for model metrics ``encode``, ``add_noise``,
            ``predict_eps`` and ``noise_process``.
        dataloader: of real images, ``dict(inputs=(N, 3, H, W) in [-1, 1], ...)``. They are read once.
        metrics: configs or built metrics. Built ones keep the statistics of the real images from call to call.
        num_images: how many to generate; none are if no metric compares sets.
        batch_size: of sampling; it doesn't change the images.
        sampling: ``scheduler``, ``num_steps``, ``guidance_scale`` in place of the model's own.
        num_real: real images to compare with, spread evenly over the data set; all of it by default.
        amp: run the model in bf16 autocast.
        progress: show it.

    Raises:
        ValueError: too few images for a metric, NaN among the generated ones, settings that a metric refuses, classes
            of the data set that are not those of the model's training.
    """
    metrics = build_metrics(metrics)
    set_metrics = [metric for metric in metrics if isinstance(metric, SetMetric)]
    figures: dict[str, float] = {}
    check_classes(model, dataloader.dataset)
    if set_metrics:
        if hasattr(model, 'check_guidance'):  # before the real images are read
            model.check_guidance((sampling or {}).get('guidance_scale'))
        check_counts(num_images, batch_size, num_real)
        collect_real(dataloader, set_metrics, num_real, progress)
        _collect_generated(model, set_metrics, num_images, batch_size, seed, dict(sampling or {}), amp, progress)
    for metric in metrics:
        # Model metrics are collective; the rows of set metrics have been gathered to the main process.
        if isinstance(metric, ModelMetric):
            metric.progress = progress
            figures |= metric.evaluate(model, dataloader)
        else:
            figures |= run_on_rank0(metric.compute)
            metric.reset_generated()
    return figures


def collect_real(dataloader: DataLoader, metrics: Sequence[SetMetric], num_real: int | None = None,
                 progress: bool = True) -> Tensor | None:
    """Give the metrics the real images, unless they have them from an earlier call with the same data.

    Returns:
        The labels (zeros without) on the main process; None where nothing was to do.
    """
    key = (id(dataloader.dataset), num_real)
    metrics = [metric for metric in metrics if metric.real_key != key]
    if not metrics:
        return None
    for metric in metrics:
        metric.reset()
        metric.check_data(getattr(dataloader.dataset, 'metainfo', None) or {})
    indices, loader = shard_loader(dataloader, num_real)
    device, labels = _device(metrics), []
    with Progress(len(indices), 'real images', enabled=progress) as bar, torch.inference_mode():
        for batch in loader:
            images = batch['inputs'].to(device)
            labels.append(batch.get('labels', torch.zeros(len(images), dtype=torch.long)))
            for metric in metrics:
                metric.update(images, real=True, labels=batch.get('labels'))
            bar.update(len(images))
    for metric in metrics:
        _gather(metric, real=True)
        metric.real_key, metric.real_data = key, dataloader.dataset  # kept, or another data set could get its id
    return gather_rows(dict(labels=torch.cat(labels)) if labels else {}).get('labels')


def _device(metrics: Sequence[SetMetric]) -> torch.device:
    """Where an extractor works: on the GPU of this process if it has one."""
    needs_network = any(hasattr(metric, 'extractor') for metric in metrics)
    return torch.device('cuda', torch.cuda.current_device()) if needs_network and torch.cuda.is_available() \
        else torch.device('cpu')


def default_labels(model: Any, indices: Sequence[int]) -> Tensor | None:
    """The labels that ``model.sample`` gives these images by itself: all classes in turn; None if there are none."""
    classes = getattr(model, 'num_classes', None)
    return None if classes is None else torch.tensor([i % classes for i in indices])


def _collect_generated(model: Any, metrics: Sequence[SetMetric], num_images: int, batch_size: int, seed: int,
                       sampling: dict[str, Any], amp: bool, progress: bool) -> None:
    indices = shard(num_images)
    steps = sampling.get('num_steps') or getattr(model, 'num_steps', None)
    with Progress(len(indices), 'sampling', enabled=progress) as bar, evaluating(model, amp):
        for start in range(0, len(indices), batch_size):
            part = indices[start:start + batch_size]
            target = bar.n + len(part)

            def on_step(size: int = len(part), target: float = target) -> None:
                if steps:
                    bar.update(min(size / steps, target - bar.n))

            images = quantise(model.sample(list(part), seed=seed, on_step=on_step, **sampling))
            labels = default_labels(model, part)
            for metric in metrics:
                metric.update(images, real=False, labels=labels)
            bar.update(target - bar.n)
    for metric in metrics:
        _gather(metric, real=False)


def _gather(metric: SetMetric, real: bool) -> None:
    rows = gather_rows(metric.rows(real))
    metric.load_rows(rows if is_main_process() else {}, real)


def noise_floor(dataloader: DataLoader,
                metrics: Sequence[Mapping[str, Any] | Metric],
                num_images: int = 1000,
                num_real: int | None = None,
                splits: int = 5,
                seed: int = 0,
                progress: bool = True) -> dict[str, dict[str, float]]:
    """What each set metric gives for *real* images in place of generated ones: no model can be expected to do better.

    ``num_real + num_images`` real images are drawn and parted at random into the two sets, ``splits`` times. If they
    have labels, both sets get the same share of each, as generated images do. Where the data set has fewer images,
    both sets shrink in proportion and a line in the log says so (a Frechet distance of smaller sets is larger).
    Model metrics have no such floor; they state a standard error.

    Returns:
        ``{figure: dict(mean=..., std=...)}`` over the splits.

    Raises:
        ValueError: fewer than two splits, or too few images.
    """
    if splits < 2:
        raise ValueError(f'noise_floor: splits={splits}; two or more are needed for a spread.')
    metrics = [copy.copy(metric) for metric in build_metrics(metrics) if isinstance(metric, SetMetric)]
    dataset = dataloader.dataset
    num_real = len(dataset) if num_real is None else num_real
    total = num_real + num_images
    if total > len(dataset) and not getattr(dataset, 'fresh_epochs', False):
        scale = len(dataset) / total
        print_log(f'noise_floor: the data set has {len(dataset)} images; comparing {int(num_real * scale)} with '
                  f'{int(num_images * scale)} instead of {num_real} with {num_images}.', logger='current')
        num_real, num_images = int(num_real * scale), int(num_images * scale)
    if not metrics:
        return {}
    for metric in metrics:
        metric.reset()
    labels = collect_real(dataloader, metrics, num_real + num_images, progress)
    return run_on_rank0(lambda: _split_figures(metrics, labels, num_real, num_images, splits, seed))


def stratified_split(labels: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Part 0 ... len(labels) - 1 at random in ``size`` and the rest, each label in proportion."""
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]
    # Walk through the labels and give every (N / size)-th to the first part: exactly `size` in all.
    steps = torch.arange(len(order) + 1) * size // len(order)
    first = steps[1:] > steps[:-1]
    return order[first], order[~first]


def _split_figures(metrics: Sequence[SetMetric], labels: Tensor, num_real: int, num_images: int, splits: int,
                   seed: int) -> dict[str, dict[str, float]]:
    generator = torch.Generator().manual_seed(seed)
    values: dict[str, list[float]] = {}
    for _ in range(splits):
        parts = stratified_split(labels, num_real, generator)
        for metric in metrics:
            if min(num_real, num_images) < metric.minimum:
                raise ValueError(f'noise_floor: {type(metric).__name__} needs at least {metric.minimum} images in each '
                                 f'set, got {num_real} and {num_images}.')
            rows = metric.rows(True)
            real, other = ({key: value[part] for key, value in rows.items()} for part in parts)
            for name, value in metric.distance(real, other).items():
                values.setdefault(name, []).append(value)
    floors = {name: torch.tensor(found, dtype=torch.float64) for name, found in values.items()}
    return {name: dict(mean=found.mean().item(), std=found.std().item()) for name, found in floors.items()}
