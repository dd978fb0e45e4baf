"""Teacher against student: size, speed, errors and samples at equal seeds, as figures and as one HTML page."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import DataLoader

from slimdiff.evaluation import throughput
from slimdiff.evaluation.cost import human
from slimdiff.evaluation.evaluate import evaluate, noise_floor
from slimdiff.evaluation.extractors import random_extractor
from slimdiff.evaluation.metrics import BandwiseDenoisingError
from slimdiff.evaluation.metrics.frechet import FrechetDistance
from slimdiff.evaluation.page import figure_uri, grid_uri, write_page
from slimdiff.evaluation.record import cpu_name
from slimdiff.evaluation.unet_cost import context_length_of, unet_cost, unet_inputs
from slimdiff.models.backbones.network_set import size_of
from slimdiff.models.backbones.protocol import example_inputs
from slimdiff.optional import install_command
from slimdiff.sampling.images import image_grid, to_uint8

#: timesteps between which the errors are averaged; the last bin ends with the process
EDGES = (0, 100, 300, 600, 900)
#: rounds and batch of the timing
ROUNDS, BATCH = 8, 8


def sizes_of(models: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Parameters, MACs (with those of attention), milliseconds of a step of :data:`BATCH` images, and memory.

    ``speed_up`` of every model but the first is over the first: median and quartiles of the ratios, in turns.
    """
    device, found, clocks, timings = next(iter(models.values())).device, {}, {}, {}
    for name, model in models.items():
        length = context_length_of(model)
        cost, (inputs, kwargs) = unet_cost(model, length), unet_inputs(model.unet, length, BATCH)
        inputs = (example_inputs(model.unet, BATCH, length, random=True)['sample'], *inputs[1:])
        step = throughput.denoising_step(model.unet, inputs, kwargs, device=device)
        step()
        weights = size_of(model.unet)
        found[name] = dict(params=cost.params, macs=cost.macs_with_attention, weight_bytes=weights,
                           peak_bytes=weights + throughput.memory_rise(step, device))
        clocks[name] = lambda step=step: throughput.seconds_of(step, device)
        timings[name] = throughput.Timing()
    throughput.take_turns(clocks, timings, ROUNDS)
    first = next(iter(timings))
    for name, timing in timings.items():
        found[name]['milliseconds'] = 1000 * timing.latency()['p50']
        if name != first:
            found[name]['speed_up'] = throughput.speed_up(timings[first], timing)
    return found


def errors_of(models: Mapping[str, Any], loader: DataLoader, images: int) -> dict[str, Any]:
    """The paired denoising error of each model by band and timestep, and what the student has more than the teacher:
    mean and standard error over the same images and noise."""
    steps = models['teacher'].noise_process.num_train_timesteps
    edges = [*(edge for edge in EDGES if edge < steps), steps]
    metric = BandwiseDenoisingError(images, edges)
    tables = {name: metric.table(model, loader, f'denoising error, {name}') for name, model in models.items()}
    return dict(edges=edges, bands=list(metric.band_names),
                **{name: metric.summary(table) for name, table in tables.items()},
                difference=metric.summary(tables['student'] - tables['teacher']))


def distances_of(models: Mapping[str, Any], loader: DataLoader, images: int) -> dict[str, Any]:
    """The Frechet distance of ``images`` samples of each from as many real images, and its floor, real against real.

    On the features of EfficientNet-Lite0 where it is installed and the images are square, else on random ones.
    """
    height, width = models['teacher'].image_shape[1:]
    metric = FrechetDistance(extractor=random_extractor(min(height, width)))
    if height == width:
        with contextlib.suppress(ImportError):
            # A multiple of 32 that does not shrink the images.
            metric = FrechetDistance(extractor=dict(type='EfficientNetLite0', size=max(64, -(-height // 32) * 32)))
    found = {name: evaluate(model, loader, [metric], images, num_real=images) for name, model in models.items()}
    floor = noise_floor(loader, [metric], images, images, splits=4)[metric.prefix]
    return dict(features=type(metric.extractor).__name__, dims=metric.extractor.num_features, images=images,
                floor=floor, **{model: figures[metric.prefix] for model, figures in found.items()})


@torch.inference_mode()
def samples_of(models: Mapping[str, Any], count: int = 16, seed: int = 0) -> dict[str, Tensor]:
    """Grids (C, H, W) uint8 of the images of the same seed and numbers."""
    return {name: image_grid(to_uint8(model.sample(range(count), seed=seed)).cpu(), columns=8)
            for name, model in models.items()}


def compare(teacher: Any, student: Any, loader: DataLoader | None, images: int) -> dict[str, Any]:
    """All figures, as plain data.

    Args:
        loader: of real images; None leaves out what needs them.
        images: for the denoising error and the Frechet distance; 0 leaves both out.
    """
    models = dict(teacher=teacher, student=student)
    record: dict[str, Any] = dict(machine=f'{cpu_name()}, threads: {torch.get_num_threads()}, '
                                  f'{teacher.device}, PyTorch {torch.__version__}',
                                  sampler=type(student.sampler).__name__, steps=student.num_steps,
                                  sizes=sizes_of(models))
    if loader is not None and images:
        images = min(images, len(loader.dataset))
        record['errors'] = errors_of(models, loader, images)
        record['distances'] = distances_of(models, loader, images)
    return record


def summary(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows (what, teacher, student), below a header."""
    sizes = [record['sizes'][name] for name in ('teacher', 'student')]
    share, gain = sizes[1]['macs'] / sizes[0]['macs'], sizes[1]['speed_up']
    rows = [('', 'teacher', 'student'),
            ('MACs of a step', human(sizes[0]['macs']), f'{human(sizes[1]["macs"])} ({share:.1%})'),
            ('parameters', human(sizes[0]['params']), human(sizes[1]['params'])),
            (f'a step of {BATCH} images', f'{sizes[0]["milliseconds"]:.3g} ms',
             f'{sizes[1]["milliseconds"]:.3g} ms ({gain["median"]:.1f}x as fast, {gain["q25"]:.1f} to '
             f'{gain["q75"]:.1f})'),
            ('memory of a step', *(f'{size["peak_bytes"] / 2**20:.1f} MiB' for size in sizes))]
    if 'errors' in record:
        errors, more = record['errors'], record['errors']['difference']
        rows.append(('denoising error', f'{errors["teacher"]["denoise/total"]:.5f}',
                     f'{errors["student"]["denoise/total"]:.5f} ({more["denoise/total"]:+.5f} ± '
                     f'{more["denoise/total_stderr"]:.5f})'))
        distances = record['distances']
        rows.append(('Fréchet distance', *(f'{distances[name]:.4g}' for name in ('teacher', 'student'))))
    return rows


def error_figure(errors: Mapping[str, Any]) -> Figure:
    """The student's error over the teacher's, by timestep and band."""
    figure = Figure(figsize=(7, 3.2), layout='constrained')
    axes = figure.subplots()
    bins = [f't{start}-{stop}' for start, stop in pairwise(errors['edges'])]
    for i, band in enumerate(errors['bands']):
        pairs = [[errors[name][f'denoise/{b}/{band}'] for name in ('student', 'teacher')] for b in bins]
        ratios = [own / theirs if theirs else 1.0 for own, theirs in pairs]  # small maps lack a band
        axes.bar([j + 0.27 * (i - 1) for j in range(len(bins))], [ratio - 1 for ratio in ratios], 0.25, bottom=1,
                 label=f'{band} frequencies')
    axes.axhline(1, color='black', linewidth=0.8)
    axes.set_xticks(range(len(bins)), [b.removeprefix('t') for b in bins])
    axes.set(xlabel='timesteps, clean to noisy', ylabel='error, teacher = 1 (less is better)')
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3, axis='y')
    return figure


def write_report(record: Mapping[str, Any], grids: Mapping[str, Tensor], path: Path, title: str,
                 notes: Sequence[str]) -> None:
    """Write one HTML file that needs nothing but itself, whole or not at all.

    Args:
        notes: paragraphs on how the student was made.
    """
    errors = record.get('errors')
    write_page(
        'slimming/report.html.j2', path, title=title, notes=notes, rows=summary(record), record=record,
        install=install_command('features'), figure=errors and figure_uri(error_figure(errors)),
        samples=[(name, grid_uri(grid), grid.shape[2] * max(1, 560 // grid.shape[2])) for name, grid in grids.items()])
