"""``slimdiff encode_latents CONFIG --out DIR``: a dataset's images, encoded once by the config's first stage.

A shard of the output is made whole by one rank and depends on its images alone, so that the files are the same for any
number of ranks, and a run that was stopped goes on with the same command: intact shards are kept.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimdiff.cli.common import add_config_arguments, add_launcher_argument, load_checked_config, runs_cleanly

DTYPES = ('float16', 'bfloat16', 'float32')


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='slimdiff encode_latents',
        description='Encode a dataset once, to train from its latents. Stopped, it goes on with the same command.')
    add_config_arguments(parser)
    parser.add_argument('--out', help="the folder to write; default: data_root of the config's LatentDataset")
    parser.add_argument('--split', choices=('train', 'val', 'test'), default='train', help='which dataloader')
    parser.add_argument('--dtype', choices=DTYPES, default='float16', help='of the latents on disk')
    parser.add_argument('--flip', action='store_true', help='encode the mirror images as well: twice the size')
    parser.add_argument('--posterior', choices=('sample', 'mode'),
                        help="of a KL first stage: a draw, or the mean; default: the autoencoder's")
    parser.add_argument('--batch-size', type=int, default=16, help='images at once on each rank')
    parser.add_argument('--shard-size', type=int, default=2048, help='images in a file')
    parser.add_argument('--num-workers', type=int, help="processes that read images; default: the dataloader's")
    parser.add_argument('--seed', type=int, default=0, help='of the draws from the posterior')
    parser.add_argument('--overwrite', action='store_true', help='replace latents of other settings in --out')
    add_launcher_argument(parser)
    args = parser.parse_args(argv)
    for name in ('batch_size', 'shard_size'):
        if getattr(args, name) < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1, got {getattr(args, name)}')
    return args


# ---- what is encoded, by what -----------------------------------------------------------------------------------


def source_of(cfg: Any, args: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """Config of the images' dataset, and the folder for their latents.

    Raises:
        ValueError: no such dataloader, latents without ``source``, or no folder.
    """
    from slimdiff.arguments import plain
    loader = cfg.get(f'{args.split}_dataloader')
    if not loader:
        raise ValueError(f'{args.config} has no {args.split}_dataloader; choose another --split.')
    source, out = plain(loader['dataset']), args.out
    if source.get('type') == 'LatentDataset':
        out = out or source['data_root']
        source = source.get('source')
        if source is None:
            raise ValueError(f"The {args.split}_dataloader of {args.config} reads latents already, and does not say of "
                             "which images: give its dataset source=dict(type='ImageFolder', data_root=..., ...), or "
                             'name a config that reads images.')
    if out is None:
        raise ValueError(f'--out: the folder for the latents. (The {args.split}_dataloader of {args.config} is no '
                         'LatentDataset, whose data_root would be the default.)')
    return without_random_steps(source), Path(out)


def without_random_steps(source: dict[str, Any]) -> dict[str, Any]:
    """The images' dataset without random flips, of which latents would keep one draw for ever.

    Raises:
        ValueError: another random transform in its pipeline.
    """
    steps = source.get('pipeline') or []
    names = [str(step['type']).rpartition('.')[2] for step in steps]
    other = [name for name in names if name.startswith('Random') and name != 'RandomFlip']
    if other:
        raise ValueError(f"The images' pipeline has {', '.join(other)}: latents that are encoded once would keep one "
                         'draw of it in every epoch. Leave it out, or train from images.')
    kept = [step for step, name in zip(steps, names) if name != 'RandomFlip']
    if len(kept) < len(steps):
        print('RandomFlip is left out of the pipeline; --flip encodes both, and training draws one.', file=sys.stderr)
        source = {**source, 'pipeline': kept}
    return source


def settings_of(args: argparse.Namespace, source: Mapping[str, Any], dataset: Any, autoencoder: Any,
                sample: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """What the index says of the latents: whatever they depend on."""
    from slimdiff.datasets.fingerprint import dataset_fingerprint
    from slimdiff.engine.encoding import extras_of
    found = getattr(autoencoder, 'describe', dict)()
    normalised = {f'latents_{key}': found[key] for key in ('mean', 'std') if any(v != (key == 'std')
                                                                              for v in found.get(key, ()))}
    return dict(
        images=dataset_fingerprint(dataset),
        autoencoder=dict(type=type(autoencoder).__name__, fingerprint=autoencoder.fingerprint(),
                         source=str(getattr(autoencoder, 'checkpoint', None) or 'random weights'),
                         latent_scale=float(autoencoder.latent_scale), downsampling=autoencoder.downsampling,
                         **normalised),
        posterior=getattr(autoencoder, 'posterior', None), seed=args.seed, shape=list(shape), dtype=args.dtype,
        flips=args.flip, image_size=list(sample['inputs'].shape[1:]), length=len(dataset), shard_size=args.shard_size,
        extras=extras_of(sample),
        classes=list(getattr(dataset, 'classes', None) or []), source=dict(source))


def prepare_folder(folder: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Make the folder and note the settings in it, or check that what is there has the same ones.

    Raises:
        ValueError: latents of other settings, shards without an index that don't say theirs, or a folder that can't be
            written.
    """
    from slimdiff.checkpoint.files import remove_temporary_files
    from slimdiff.checkpoint.same import require_same
    from slimdiff.datasets.latent_files import INDEX, DamagedIndexError, comparable, read_index, write_index
    from slimdiff.datasets.missing import MissingDataError
    if folder.exists() and not folder.is_dir():
        raise ValueError(f'--out: {folder} is a file; give a folder.')
    shards = [*folder.glob('latents-*.npy'), *folder.glob('records-*.json')] if folder.is_dir() else []
    before = None
    if not overwrite and (shards or (folder / INDEX).is_file()):
        try:
            before = read_index(folder)
        except MissingDataError:
            check_shards(folder, settings, 'missing')
        except DamagedIndexError:
            check_shards(folder, settings, 'damaged')
    if before is not None:
        # Folders of slimdiff 0.1 don't say which images they are of.
        require_same({'images': settings['images'], **comparable(before)}, comparable(settings),
                     f'--out: {folder} holds other latents',
                     'Choose another folder, or --overwrite to replace them.')
    if overwrite:
        for file in shards:
            file.unlink()
    if folder.is_dir():
        remove_temporary_files(folder)
    write_index(folder, dict(complete=False, **settings))


def check_shards(folder: Path, settings: Mapping[str, Any], what: str) -> None:
    """Check that the shards of a folder without a readable index are of these settings, as they themselves say.

    Raises:
        ValueError: some are not, or don't say.
    """
    from slimdiff.datasets.latent_files import INDEX, settings_digest, shards_of
    same, other = shards_of(folder, settings_digest(settings))
    if other or not same:
        why = (f'{other} of the shards there are of other settings, or do not say of which (those of an older slimdiff)'
               if other else 'no intact shard is there that says of which settings it is')
        raise ValueError(f'--out: {INDEX} in {folder} is {what}, and {why}. Run the command that made them, choose '
                         'another folder, or --overwrite, which removes all shards of this folder and encodes every '
                         'image again.')
    print(f'{INDEX} in {folder} is {what}: it is written again, for {same} shards are of these settings.',
          file=sys.stderr)


def check_space(folder: Path, needed: int) -> None:
    """Raise ValueError if the disk has less room than ``needed`` bytes: better now than after hours."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(f'--out: the latents will take {needed / 1e9:.2f} GB, but {folder} has {free / 1e9:.2f} GB '
                         'left. Make room, choose another folder, or --dtype float16 without --flip. Nothing was '
                         'encoded; finished shards are kept.')


def finish(folder: Path, settings: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Write the index of a complete folder; returns the statistics."""
    from slimdiff.datasets.latent_files import read_records, statistics, write_index
    records = [read_records(folder, number) for number in range(count)]
    found = statistics(records)
    write_index(folder, dict(complete=True, **settings, statistics=found, shards=[r['sha256'] for r in records]))
    return found


def show(folder: Path, settings: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Print where the latents are and what their standard deviation says of ``latent_scale``."""
    size = sum(file.stat().st_size for file in folder.iterdir())
    shape = 'x'.join(map(str, settings['shape']))
    room = f'{size / 1e9:.3g} GB' if size >= 1e8 else f'{size / 1e6:.3g} MB'
    print(f'{settings["length"]} images{" and their mirror images" if settings["flips"] else ""} as {shape} latents '
          f'({settings["dtype"]}, {room}) in {folder}')
    print(f'mean {found["mean"]:.4g}, standard deviation {found["std"]:.4g}: a latent_scale of '
          f'{found["implied_scale"]:.5g} would make it 1; the config has {settings["autoencoder"]["latent_scale"]:g}')


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    """Encode; returns the exit status."""
    args = parse(argv)
    cfg = load_checked_config(args)
    source, folder = source_of(cfg, args)

    import torch
    from mmengine.device import get_device
    from mmengine.dist import barrier, get_rank, get_world_size, is_main_process

    from slimdiff.arguments import plain
    from slimdiff.datasets.check_images import check_images
    from slimdiff.datasets.latent_files import shard_ranges
    from slimdiff.engine.distributed import join_processes
    from slimdiff.engine.encoding import encode_shards, missing_shards
    from slimdiff.evaluation.common import locked, run_on_rank0
    from slimdiff.registry import DATASETS, MODELS
    join_processes(args.launcher)
    device = torch.device(get_device())
    dataset = DATASETS.build(source)
    config = plain(cfg.model.get('autoencoder') or dict(type='IdentityAutoencoder'))
    if args.posterior:
        config['posterior'] = args.posterior
    autoencoder = MODELS.build(config).eval()
    check_images(dataset)
    sample = dataset[0]
    shape = tuple(autoencoder.encode_raw(sample['inputs'][None].to(device)).shape[1:])
    settings = run_on_rank0(lambda: settings_of(args, source, dataset, autoencoder, sample, shape))
    with locked(folder, 'encoding'):
        run_on_rank0(lambda: prepare_folder(folder, settings, args.overwrite))
        ranges = shard_ranges(settings['length'], settings['shard_size'])
        missing = missing_shards(folder, len(ranges))
        bytes_each = torch.Size(shape).numel() * (1 + args.flip) * (4 if args.dtype == 'float32' else 2)
        run_on_rank0(lambda: check_space(folder, bytes_each * sum(len(ranges[number]) for number in missing)))
        if is_main_process() and len(missing) < len(ranges):
            print(f'{len(ranges) - len(missing)} of {len(ranges)} shards are there and intact.')
        workers = args.num_workers
        if workers is None:
            workers = cfg[f'{args.split}_dataloader'].get('num_workers', 0)
        try:
            encode_shards(folder, missing[get_rank()::get_world_size()], dataset, autoencoder, device, settings,
                          args.batch_size, workers)
            barrier()
        except KeyboardInterrupt:
            print(f'\nStopped. Finished shards in {folder} are kept; the same command goes on.', file=sys.stderr)
            raise
        found = run_on_rank0(lambda: finish(folder, settings, len(ranges)))
    if is_main_process():
        show(folder, settings, found)
        if getattr(dataset, 'skipped', 0):
            print(f'{dataset.skipped} unreadable images were replaced by the next readable ones.')
    return 0
