"""Paired band-wise denoising error: where in time and in frequency a network fails."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from slimdiff.evaluation.common import device_of, evaluating, gather_rows, shard_loader
from slimdiff.evaluation.metrics.base import ModelMetric
from slimdiff.functional.spectrum import band_energy, band_masks
from slimdiff.progress import Progress
from slimdiff.registry import METRICS
from slimdiff.sampling import mix_seed


@METRICS.register_module()
class BandwiseDenoisingError(ModelMetric):
    """Mean squared error of the predicted noise, per bin of timesteps and per band of radial frequencies.

    Every model meets the same images, timesteps and noise: each is a function of (seed, index of the image,
    timestep). So two models, or two runs of one, differ without any sampling noise in between; it is the sharpest
    comparison there is (differences of 1e-4 show), needs no sampling, and tests the claim of Yang et al. (2023) that
    small networks miss high frequencies.

    By Parseval the bands of a bin add up to its error, and the mean of the bins, weighted by their widths, is the
    total: the training loss (eps, unweighted) in expectation.

    Figures: ``<prefix>/total``, ``<prefix>/t0-100``, ``<prefix>/top``, ``<prefix>/t0-100/top``, ..., each with
    ``_stderr``: the standard error over images of that figure. The error of a *difference* of models is smaller;
    take it from :meth:`table`, image by image.

    Args:
        num_images: so many, spread evenly over the data set; all by default.
        timestep_edges: bin i is ``edges[i] <= t < edges[i + 1]``.
        band_edges: cycles per pixel (0.5 is Nyquist), see :func:`~slimdiff.functional.spectrum.band_masks`.
        band_names: one more than there are edges.
        draws: timesteps for each image and bin, one in each of so many equal parts of the bin.
        seed: of timesteps and noise.
        stderr: also give the standard errors.
        amp: bf16 autocast.
        prefix: of the names of the figures.

    Raises:
        ValueError: edges that don't rise, or names that don't fit them.
    """

    def __init__(self,
                 num_images: int | None = None,
                 timestep_edges: Sequence[int] = (0, 100, 300, 600, 900, 1000),
                 band_edges: Sequence[float] = (0.125, 0.25),
                 band_names: Sequence[str] = ('low', 'mid', 'top'),
                 draws: int = 1,
                 seed: int = 0,
                 stderr: bool = True,
                 amp: bool = False,
                 prefix: str = 'denoise') -> None:
        edges = list(timestep_edges)
        if len(edges) < 2 or edges[0] < 0 or edges != sorted(set(edges)):
            raise ValueError(f'BandwiseDenoisingError: timestep_edges={edges} must be two or more integers that rise '
                             'strictly from 0 or above, e.g. (0, 300, 700, 1000).')
        if len(band_names) != len(band_edges) + 1:
            raise ValueError(f'BandwiseDenoisingError: {len(band_edges)} band_edges make {len(band_edges) + 1} bands, '
                             f'got band_names={list(band_names)}.')
        if draws < 1 or (num_images is not None and num_images < 2):
            raise ValueError(f'BandwiseDenoisingError: draws={draws} must be at least 1 and num_images={num_images} '
                             'at least 2 (or None).')
        self.num_images = num_images
        self.timestep_edges = edges
        self.band_edges = tuple(band_edges)
        self.band_names = tuple(band_names)
        self.draws = draws
        self.seed = seed
        self.stderr = stderr
        self.amp = amp
        self.prefix = prefix

    def evaluate(self, model: Any, dataloader: DataLoader) -> dict[str, float]:
        return self.summary(self.table(model, dataloader))

    def table(self, model: Any, dataloader: DataLoader, name: str = 'denoising error') -> Tensor:
        """Error of each image, (N, bins, bands) float64, over all ranks in the order of the data set.

        The difference of two models' tables is paired: its mean over images has the standard error
        ``std / sqrt(N)`` of the differences.

        Args:
            name: of the progress.

        Raises:
            ValueError: a bin beyond the model's timesteps.
        """
        if self.timestep_edges[-1] > model.noise_process.num_train_timesteps:
            raise ValueError(f'BandwiseDenoisingError: timestep_edges end at {self.timestep_edges[-1]}, but the model '
                             f'has {model.noise_process.num_train_timesteps} timesteps.')
        indices, loader = shard_loader(dataloader, self.num_images)
        device = device_of(model)
        tables, position = [], 0
        with Progress(len(indices), name, enabled=self.progress) as bar, evaluating(model, self.amp):
            for batch in loader:
                images = batch['inputs'].to(device)
                numbers = indices[position:position + len(images)]
                position += len(images)
                conditions = model.conditions_of(batch) if hasattr(model, 'conditions_of') else {}
                tables.append(self._errors(model, model.encode(images), conditions, numbers, bar).cpu())
        return gather_rows(dict(table=torch.cat(tables)) if tables else {})['table']

    def _errors(self, model: Any, x0: Tensor, conditions: Mapping[str, Tensor], numbers: Sequence[int],
                bar: Progress) -> Tensor:
        """(N, bins, bands) of clean inputs (N, C, H, W)."""
        masks = band_masks(*x0.shape[-2:], self.band_edges, x0.device)
        bins = []
        for b, (start, stop) in enumerate(pairwise(self.timestep_edges)):
            error = x0.new_zeros(len(x0), len(masks), dtype=torch.float64)
            for draw in range(self.draws):
                times = [self._timestep(number, b, draw, start, stop) for number in numbers]
                noise = torch.stack([self._noise(number, int(t), x0.shape[1:]) for number, t in zip(numbers, times)])
                t = model.noise_process.timesteps(torch.tensor(times, dtype=torch.float64))
                noise, t = noise.to(x0), t.to(x0.device)
                predicted = model.predict_eps(model.add_noise(x0, noise, t), t, **conditions)
                error += band_energy(predicted.float() - noise.float(), masks)
                bar.update(len(x0) / (self.draws * (len(self.timestep_edges) - 1)))
            bins.append(error / self.draws)
        return torch.stack(bins, 1)

    def _timestep(self, number: int, b: int, draw: int, start: int, stop: int) -> float:
        """A real number, which a process with discrete timesteps floors."""
        fraction = mix_seed(self.seed, number, b, draw) / 2**63
        return min(start + (draw + fraction) / self.draws * (stop - start), math.nextafter(stop, start))

    def _noise(self, number: int, t: int, shape: Sequence[int]) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(mix_seed(self.seed, number, t)))

    def summary(self, table: Tensor) -> dict[str, float]:
        """Figures by name from a table (N, bins, bands)."""
        widths = torch.tensor([stop - start for start, stop in pairwise(self.timestep_edges)], dtype=table.dtype)
        bins = [f'{self.prefix}/t{start}-{stop}' for start, stop in pairwise(self.timestep_edges)]
        over_time = (table * (widths / widths.sum())[:, None]).sum(1)  # (N, bands)
        columns = {f'{self.prefix}/total': over_time.sum(1)}
        columns |= {f'{self.prefix}/{band}': over_time[:, j] for j, band in enumerate(self.band_names)}
        for i, name in enumerate(bins):
            columns[name] = table[:, i].sum(1)
            columns |= {f'{name}/{band}': table[:, i, j] for j, band in enumerate(self.band_names)}
        figures = {}
        for name, values in columns.items():
            figures[name] = values.mean().item()
            if self.stderr and len(values) > 1:
                figures[f'{name}_stderr'] = (values.std() / len(values)**0.5).item()
        return figures
