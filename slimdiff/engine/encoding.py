"""Encoding a data set with a first stage, shard by shard."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from slimdiff.datasets.latent_files import (
    LatentFilesError,
    read_records,
    settings_digest,
    shard_names,
    shard_ranges,
    to_array,
    write_shard,
)
from slimdiff.datasets.seeding import seed32
from slimdiff.progress import Progress


def extras_of(sample: Mapping[str, Any]) -> list[str]:
    """What a data set's samples have that is kept with their latents: labels and captions."""
    return sorted(name for name in sample if name in ('labels', 'caption'))


def missing_shards(folder: Path, count: int) -> list[int]:
    """Numbers of the shards that are not there or damaged; every rank reads a part of them. Collective."""
    missing = []
    numbers = range(get_rank(), count, get_world_size())
    with Progress(len(numbers), 'checking', 'shards') as bar:
        for number in numbers:
            try:
                read_records(folder, number, verify=True)
            except LatentFilesError as error:
                missing.append(number)
                if (folder / shard_names(number)[1]).exists():
                    print(f'{error} It is made again.', file=sys.stderr)
            bar.update()
    return sorted(number for part in all_gather_object(missing) for number in part)


def posterior_noise(shape: Sequence[int], seed: int, indices: Sequence[int], mirrored: int) -> Tensor:
    """Standard normal draws (N, C, h, w) for these images, each a function of (seed, index, mirrored)."""
    return torch.stack([torch.randn(*shape, generator=torch.Generator().manual_seed(seed32(seed, i, mirrored)))
                        for i in indices])


def encode_batch(autoencoder: nn.Module, images: Tensor, indices: Sequence[int], device: torch.device,
                 settings: Mapping[str, Any]) -> np.ndarray:
    """The array (n, [2,] C, h, w) of a batch of images (n, 3, H, W).

    Args:
        indices: of the images.
        settings: of the folder's index.

    Raises:
        ValueError: a latent that is not finite in the precision of the files.
    """
    versions = []
    for mirrored in range(1 + settings['flips']):
        given = (images.flip(-1) if mirrored else images).to(device)
        noise = None
        if settings['posterior'] == 'sample':
            noise = posterior_noise(settings['shape'], settings['seed'], indices, mirrored).to(device)
        raw = autoencoder.encode_raw(given, noise).cpu()
        bad = ~torch.isfinite(raw.to(getattr(torch, settings['dtype']))).flatten(1).all(1)
        if bad.any():
            largest = raw[bad].abs().max().item()
            raise ValueError(f'The latents of image {indices[int(bad.nonzero()[0])]} are not finite in '
                             f'{settings["dtype"]} (largest value {largest:g}). '
                             + ('Use --dtype bfloat16 or float32.' if largest < float('inf') else
                                'Is the image, or the first stage, damaged?'))
        versions.append(raw)
    return to_array(torch.stack(versions, 1) if settings['flips'] else versions[0], settings['dtype'])


def read_batches(dataset: Dataset, shards: Sequence[range], batch_size: int, workers: int) -> Iterator[list[dict]]:
    """The samples of shards in order, in batches that hold samples of one shard each."""
    plan = [list(shard[i:i + batch_size]) for shard in shards for i in range(0, len(shard), batch_size)]
    yield from DataLoader(dataset, batch_sampler=plan, num_workers=workers, collate_fn=list)


def encode_shards(folder: Path, numbers: Sequence[int], dataset: Any, autoencoder: nn.Module, device: torch.device,
                  settings: Mapping[str, Any], batch_size: int, workers: int = 0) -> None:
    """Encode these shards one after the other, and write each when it is complete; shows the progress.

    Raises:
        ValueError: images of several sizes, latents that are not finite, or a disk that refuses.
    """
    ranges, digest = shard_ranges(settings['length'], settings['shard_size']), settings_digest(settings)
    shards = [ranges[number] for number in numbers]
    source = read_batches(dataset, shards, batch_size, workers)
    with Progress(sum(map(len, shards)), 'encoding') as bar:
        for number, shard in zip(numbers, shards):
            arrays: list[np.ndarray] = []
            extras: dict[str, list[Any]] = {name: [] for name in settings['extras']}
            for start in range(0, len(shard), batch_size):
                samples, indices = next(source), shard[start:start + batch_size]
                arrays.append(encode_batch(autoencoder, stack(samples, indices, settings['image_size']), indices,
                                           device, settings))
                for name, values in extras.items():
                    values += [texts_of(dataset, i, sample) if name == 'caption' else int(sample[name])
                               for i, sample in zip(indices, samples)]
                bar.update(len(samples))
            write_shard(folder, number, np.concatenate(arrays), settings['dtype'], extras, shard[0],
                        digest)


def stack(samples: Sequence[Mapping[str, Any]], indices: Sequence[int], size: Sequence[int]) -> Tensor:
    """The images of samples as a batch.

    Raises:
        ValueError: one has another size than the first image of the data set.
    """
    for sample, index in zip(samples, indices):
        if list(sample['inputs'].shape[1:]) != list(size):
            raise ValueError(f'Image {index} has {tuple(sample["inputs"].shape[1:])} pixels, the first of the data set '
                             f'{tuple(size)}. All must have one size: crop or resize them.')
    return torch.stack([sample['inputs'] for sample in samples])


def texts_of(dataset: Any, index: int, sample: Mapping[str, Any]) -> str | list[str]:
    """The caption of a sample; all of its image's where the data set draws one of several (``captions_of``)."""
    if hasattr(dataset, 'captions_of') and getattr(dataset, 'caption', None) == 'random':
        texts = list(dataset.captions_of(index))
        if sample['caption'] in texts:  # else another image took the place of one that can't be read
            return texts
    return sample['caption']
