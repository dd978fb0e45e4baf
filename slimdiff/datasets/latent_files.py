"""Encoded latents on disk: a folder of shards and an ``index.json``.

A shard is two files. ``latents-00000.npy`` is an array (n, C, h, w), or (n, 2, C, h, w) where each image is followed by
its mirror image; numpy maps it into memory, so a sample costs one read of its own bytes, in any order. bfloat16, which
numpy lacks, lies in it as uint16. ``records-00000.json`` has what else the samples had (labels, captions), the sums for
the statistics, the checksums of both files, and a digest of the settings, by which a lost index is made again. A shard
counts as finished once its records are there, and they are written last. ``index.json`` says what was encoded by what,
and after the last shard also the statistics.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimdiff.checkpoint.files import DISK_FULL, atomic_write
from slimdiff.checkpoint.json_file import read_json
from slimdiff.checkpoint.same import as_json
from slimdiff.datasets.missing import MissingDataError

INDEX = 'index.json'
FORMAT = 'slimdiff-latents'
VERSION = 1
#: type of the latents -> type of the array that holds them
STORAGE = {'float16': '<f2', 'bfloat16': '<u2', 'float32': '<f4'}


class LatentFilesError(ValueError):
    """Encoded latents that can't be read or written; the message says which and why."""


class DamagedIndexError(LatentFilesError):
    """An ``index.json`` that is not valid JSON."""


# ---- settings -----------------------------------------------------------------------------------------------------


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an index without what changes no shard: where the weights lie, and their scale."""
    result = {key: value for key, value in settings.items() if key not in ('complete', 'shards', 'statistics')}
    autoencoder = dict(result.get('autoencoder') or {})
    for key in ('source', 'latent_scale'):
        autoencoder.pop(key, None)
    return as_json({**result, 'autoencoder': autoencoder})


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of :func:`comparable`, by which a shard is known without its index."""
    return _hash(comparable(settings))


def shards_of(folder: Path, digest: str) -> tuple[int, int]:
    """How many of a folder's shards say that they are of these settings, and how many say otherwise or nothing.

    Damaged ones count as neither.
    """
    same = other = 0
    for file in folder.glob('records-*.json'):
        with contextlib.suppress(LatentFilesError, ValueError):
            if read_records(folder, int(file.stem.removeprefix('records-'))).get('settings') == digest:
                same += 1
            else:
                other += 1
    return same, other


# ---- arrays -------------------------------------------------------------------------------------------------------


def to_array(latents: Tensor, dtype: str) -> np.ndarray:
    """Latents rounded to ``dtype``, as the array that holds them."""
    rounded = latents.detach().cpu().to(getattr(torch, dtype)).contiguous()
    return (rounded.view(torch.uint16) if dtype == 'bfloat16' else rounded).numpy().astype(STORAGE[dtype], copy=False)


def to_tensor(array: np.ndarray, dtype: str) -> Tensor:
    """Undo :func:`to_array`, without a copy."""
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == 'bfloat16' else tensor


def shard_names(number: int) -> tuple[str, str]:
    """Names of the two files of a shard."""
    return f'latents-{number:05d}.npy', f'records-{number:05d}.json'


def shard_ranges(length: int, size: int) -> list[range]:
    """The samples of each shard."""
    return [range(start, min(start + size, length)) for start in range(0, length, size)]


# ---- writing ------------------------------------------------------------------------------------------------------


def write_file(path: Path, write: Any) -> None:
    """Write atomically; a refusal of the system is a LatentFilesError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, write)
    except OSError as error:
        reason = 'the disk is full' if error.errno in DISK_FULL else (error.strerror or str(error))
        raise LatentFilesError(f'{path} could not be written: {reason}. Finished shards are kept: make room, or the '
                               'folder writable, and run the same command again.') from error


class _Hashed:
    """A file that notes the checksum of what is written to it."""

    def __init__(self, file: Any) -> None:
        self.file, self.sha256, self.size = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self.file.write(data)


def write_shard(folder: Path, number: int, latents: np.ndarray, dtype: str, extras: Mapping[str, Sequence[Any]],
                first: int, settings: str | None = None) -> dict[str, Any]:
    """Write a shard; returns its records.

    Args:
        latents: as :func:`to_array` gives them, (n, ...).
        extras: what else the samples had, a list of n plain values by name.
        first: index of the first sample.
        settings: their :func:`settings_digest`.

    Raises:
        LatentFilesError: the system refuses; nothing that was there is harmed.
    """
    name, records_name = shard_names(number)
    sums: dict[str, Any] = {}

    def write(file: Any) -> None:
        hashed = _Hashed(file)
        np.lib.format.write_array(hashed, latents, version=(1, 0), allow_pickle=False)
        sums.update(sha256=hashed.sha256.hexdigest(), bytes=hashed.size)

    write_file(folder / name, write)
    values = to_tensor(latents, dtype).double().movedim(-3, 0).flatten(1)  # by channel
    records = dict(first=first, count=len(latents), **sums, values=values.shape[1], sum=values.sum(1).tolist(),
                   square_sum=values.square().sum(1).tolist(), extras={k: list(v) for k, v in extras.items()},
                   settings=settings)
    text = json.dumps(dict(sha256=_hash(records), records=records)).encode()
    write_file(folder / records_name, lambda file: file.write(text))
    return records


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def statistics(shards: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of all values and by channel, from the records of the shards in their order."""
    shards = list(shards)
    count = sum(shard['values'] for shard in shards)
    means = np.sum([shard['sum'] for shard in shards], axis=0) / count
    squares = np.sum([shard['square_sum'] for shard in shards], axis=0) / count
    mean, std = float(means.mean()), math.sqrt(max(float(squares.mean()) - float(means.mean())**2, 0.0))
    return dict(mean=mean, std=std, implied_scale=1 / std if std else 1.0, channel_mean=means.tolist(),
                channel_std=np.sqrt(np.maximum(squares - means**2, 0)).tolist())


def write_index(folder: Path, index: Mapping[str, Any]) -> None:
    text = json.dumps(dict(format=FORMAT, version=VERSION, **index), indent=1).encode() + b'\n'
    write_file(folder / INDEX, lambda file: file.write(text))


# ---- reading ------------------------------------------------------------------------------------------------------


def read_index(folder: Path) -> dict[str, Any]:
    """The content of ``index.json``, finished or not.

    Raises:
        MissingDataError: none there.
        DamagedIndexError: damaged.
        LatentFilesError: of another format.
    """
    path = folder / INDEX
    if not path.is_file():
        raise MissingDataError(f"data_root: there are no encoded latents in '{folder}' (no {INDEX}). Make them: "
                               'slimdiff encode_latents CONFIG (docs/en/user_guides/latents.md).')
    try:
        index = read_json(path, 'Run the slimdiff encode_latents command of this folder again: it writes the index '
                                'again, and keeps the intact shards of the same settings.')
    except ValueError as error:
        raise DamagedIndexError(str(error)) from None
    if index.pop('format', None) != FORMAT or not isinstance(version := index.pop('version', None), int):
        raise LatentFilesError(f'{path} is not an index of slimdiff encode_latents.')
    if version > VERSION:
        raise LatentFilesError(f'{path} was written by a newer slimdiff (this one reads version {VERSION}): upgrade.')
    return index


def read_records(folder: Path, number: int, verify: bool = False) -> dict[str, Any]:
    """The records of a shard, whose files are there, whole and of the right size.

    Args:
        verify: also compare the checksum of the latents, which reads all of them.

    Raises:
        LatentFilesError: not so; the message says what.
    """
    name, records_name = shard_names(number)
    try:
        stored = read_json(folder / records_name, '')
        records = stored['records']
        if _hash(records) != stored['sha256']:
            raise LatentFilesError(f'{folder / records_name} is damaged: its checksum is wrong.')
        size = (folder / name).stat().st_size
    except FileNotFoundError as error:
        raise LatentFilesError(f'{error.filename} is missing.') from None
    except LatentFilesError:
        raise
    except (KeyError, TypeError, ValueError):
        raise LatentFilesError(f'{folder / records_name} is damaged: it is not the JSON of a shard.') from None
    if size != records['bytes']:
        raise LatentFilesError(f'{folder / name} is damaged: it has {size} bytes instead of {records["bytes"]}.')
    if verify:
        with open(folder / name, 'rb') as file:
            key = hashlib.sha256()
            while block := file.read(1 << 20):
                key.update(block)
        if key.hexdigest() != records['sha256']:
            raise LatentFilesError(f'{folder / name} is damaged: its checksum is wrong.')
    return records
