"""Images/s of the loader of encoded latents against those that a config's UNet trains on.

    python benchmarks/bench_latents.py configs/sd/ffhq.py --json benchmarks/results/latents_cpu.json
    python benchmarks/bench_latents.py configs/sd/ffhq.py --loader-only

Synthetic latents of the UNet's shape are written to a temporary folder. The loader gives batches in random order, with
flips, from files in the page cache (``warm``) and from files that were dropped from it (``cold``: what the disk gives,
where the system allows to drop them). Training is the denoising loss, backward and an AdamW step, without a teacher:
distillation takes longer, so the ratio is the least that training sees.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from timing import spread, write

from slimdiff.configuration import load_config
from slimdiff.datasets import build_dataloader
from slimdiff.datasets.latent_files import shard_ranges, statistics, to_array, write_index, write_shard
from slimdiff.models.serving import serving_config
from slimdiff.registry import MODELS

TARGET = 5


def write_latents(folder: Path, shape: tuple[int, int, int], images: int, shard_size: int = 1024) -> int:
    """Write ``images`` random latents with mirror images and labels, in float16; returns the bytes."""
    records = []
    for number, part in enumerate(shard_ranges(images, shard_size)):
        values = torch.randn(len(part), 2, *shape)
        labels = dict(labels=[i % 10 for i in part])
        records.append(write_shard(folder, number, to_array(values, 'float16'), 'float16', labels, part.start))
    write_index(folder, dict(
        complete=True, autoencoder=dict(type='none'), shape=list(shape), dtype='float16', flips=True, length=images,
        shard_size=shard_size, extras=['labels'], statistics=statistics(records),
        shards=[r['sha256'] for r in records]))
    return sum(file.stat().st_size for file in folder.iterdir())


def drop_from_cache(folder: Path) -> None:
    """Ask the system to forget the files' pages."""
    for file in folder.glob('*.npy'):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def loader_rates(folder: Path, batch: int, images: int, workers: int, rounds: int, prepare: Callable[[], None]) -> list:
    """Images/s of one epoch, ``rounds`` times."""
    rates = []
    for seed in range(rounds):
        prepare()
        loader = build_dataloader(dict(
            batch_size=batch, num_workers=workers, sampler=dict(type='ResumableSampler'),
            dataset=dict(type='LatentDataset', data_root=str(folder))), seed=seed)
        iterator = iter(loader)
        next(iterator)  # the start of the workers
        start, count = time.perf_counter(), 0
        while count < images:
            count += len(next(iterator)['latents'])
        rates.append(count / (time.perf_counter() - start))
    return rates


def training_rates(model: torch.nn.Module, shape: tuple[int, int, int], batch: int, rounds: int) -> list:
    """Images/s of training steps from latents."""
    optimizer = torch.optim.AdamW(model.unet.parameters(), lr=1e-4, fused=True)
    latents, config = torch.randn(batch, *shape).half(), model.unet.config
    given = {} if model.num_classes is None else {'labels': torch.zeros(batch, dtype=torch.long)}
    if config.get('context_channels') and not config.get('class_token'):
        given['context'] = torch.randn(batch, 77, config.context_channels)
    rates = []
    for i in range(rounds + 1):
        start = time.perf_counter()
        model(latents=latents, **given)['loss'].backward()
        optimizer.step()
        optimizer.zero_grad()
        if i:  # the first warms up
            rates.append(batch / (time.perf_counter() - start))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('--images', type=int, default=4000, help='latents in the folder')
    parser.add_argument('--batch', type=int, default=32, help='of the loader')
    parser.add_argument('--train-batch', type=int, default=8)
    parser.add_argument('--workers', type=int, nargs='+', default=[0, 2])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--loader-only', action='store_true')
    parser.add_argument('--folder', help='where to write the latents (a disk to measure); default: the temporary one')
    parser.add_argument('--json')
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error('--rounds must be at least 2')
    model = MODELS.build(serving_config(load_config(args.config).model))
    size = model.unet.config.sample_size
    shape = (model.unet.config.in_channels, size, size)
    result: dict = {'config': args.config, 'latents': list(shape), 'images': args.images, 'batch': args.batch}
    folder = Path(tempfile.mkdtemp(prefix='bench_latents', dir=args.folder))
    try:
        size = write_latents(folder, shape, args.images)
        print(f'{args.images} latents {shape} with mirror images: {size / 1e6:.0f} MB')
        for state, prepare in (('warm', lambda: None), ('cold', lambda: drop_from_cache(folder))):
            for workers in args.workers:
                rates = loader_rates(folder, args.batch, args.images, workers, args.rounds, prepare)
                result[f'loader images/s, {state}, {workers} workers'] = spread(rates)
                print(f'loader, {state}, {workers} workers: {spread(rates)["median"]:.0f} images/s')
    finally:
        shutil.rmtree(folder)
    if not args.loader_only:
        rates = training_rates(model, shape, args.train_batch, args.rounds)
        result[f'training images/s, batch {args.train_batch}'] = spread(rates)
        best = max(v['median'] for k, v in result.items() if k.startswith('loader images/s, warm'))
        result['loader / training'] = best / spread(rates)['median']
        print(f'training: {spread(rates)["median"]:.2f} images/s; the loader gives {result["loader / training"]:.0f} '
              f'times as many (target: {TARGET})')
    write(args.json, result)


if __name__ == '__main__':
    main()
