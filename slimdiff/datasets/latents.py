"""LatentDataset: images that a first stage has encoded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slimdiff.datasets.batched import BatchedDataset
from slimdiff.datasets.latent_files import (
    STORAGE,
    LatentFilesError,
    read_index,
    read_records,
    shard_names,
    shard_ranges,
    to_tensor,
)
from slimdiff.datasets.packed import PackedStrings
from slimdiff.datasets.seeding import hash64
from slimdiff.progress import Progress
from slimdiff.registry import DATASETS


class Texts:
    """One text or several for each sample, in little memory.

    Args:
        texts: for each sample a string or a list of them.
    """

    def __init__(self, texts: Sequence[str | Sequence[str]]) -> None:
        groups = [[group] if isinstance(group, str) else list(group) for group in texts]
        self.ends = np.cumsum([0, *map(len, groups)])
        self.texts = PackedStrings(text for group in groups for text in group)

    def draw(self, item: int, seed: int, k: int) -> str:
        """The text of a sample, or the one of its texts that (seed, k) picks."""
        first, count = int(self.ends[item]), int(self.ends[item + 1] - self.ends[item])
        return self.texts[first + (int(hash64(seed, k, 1)[0] % np.uint64(count)) if count > 1 else 0)]


@DATASETS.register_module()
class LatentDataset(BatchedDataset):
    """Latents of ``slimdiff encode_latents``, to train without images and without the encoder.

    They are raw, as the encoder gave them, and the model scales them. Before the first iteration it compares
    :attr:`metainfo` with its own first stage, and refuses latents of another one, or of another scale.

    Files are mapped into memory, not read: a sample costs a copy of its own bytes.

    Args:
        data_root: the folder that ``encode_latents --out`` has written.
        flip: True draws the image or its mirror image, from (seed, k) alone, fresh in every epoch
            (``epoch_indexing``); None does so if both were encoded (``--flip``); False takes the image.
        verify: compare the checksums of all shards, which reads them all. Their sizes are always compared.
        source: config of the images that these latents are of. Nothing is read from it here: ``encode_latents``
            takes it, so that one config says how to encode and how to train.
        seed: of the flips.

    A sample is ``dict(latents=(C, h, w) in the precision of the files[, labels=int][, caption=str])``. Of an image with
    several captions one is drawn from (seed, k).

    Raises:
        ValueError: no latents there, unfinished or damaged ones, or ``flip=True`` without mirror images.
    """

    epoch_indexing = True

    def __init__(self, data_root: str, flip: bool | None = None, verify: bool = False,
                 source: Mapping[str, Any] | None = None, seed: int = 0) -> None:
        self.data_root, self.source, self.seed = Path(data_root).expanduser(), source, seed
        self.index = read_index(self.data_root)
        if not self.index['complete']:
            raise LatentFilesError(f"The latents in '{self.data_root}' are unfinished: run the same slimdiff "
                                   'encode_latents command again, it goes on where it stopped.')
        self.shape, self.dtype = tuple(self.index['shape']), self.index['dtype']
        if flip and not self.index['flips']:
            raise ValueError(f"flip=True, but '{self.data_root}' holds no mirror images. Encode them with --flip, or "
                             'leave flip out.')
        self.flip = self.index['flips'] if flip is None else flip
        self._ranges = shard_ranges(self.index['length'], self.index['shard_size'])
        self.extras = self._read_extras(verify)
        self._maps: dict[int, np.ndarray] = {}

    def _read_extras(self, verify: bool) -> dict[str, Any]:
        """Labels and captions of all samples."""
        found: dict[str, list[Any]] = {name: [] for name in self.index['extras']}
        with Progress(len(self._ranges), 'reading', 'shards') as bar:
            for number, samples in enumerate(self._ranges):
                try:
                    records = read_records(self.data_root, number, verify)
                    if records['count'] != len(samples) or records['sha256'] != self.index['shards'][number]:
                        raise LatentFilesError(f'{self.data_root / shard_names(number)[0]} is not the shard that '
                                               f'{self.data_root / "index.json"} names.')
                except LatentFilesError as error:
                    raise LatentFilesError(f'{error} Run the slimdiff encode_latents command of this folder again: it '
                                           'makes damaged shards again.') from None
                for name, values in found.items():
                    values += records['extras'][name]
                bar.update()
        return {name: np.array(values) if all(type(v) is int for v in values) else Texts(values)
                for name, values in found.items()}

    @property
    def classes(self) -> list[str]:
        return list(self.index.get('classes') or [])

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def metainfo(self) -> dict[str, Any]:
        """``latents`` is what the model compares with its first stage."""
        about = {key: value for key, value in self.index.items() if key not in ('shards', 'classes', 'source')}
        return dict(dataset='LatentDataset', classes=self.classes,
                    latents={**about, 'data_root': str(self.data_root)})

    def __len__(self) -> int:
        return self.index['length']

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_maps': {}}  # each process maps the files itself

    def _shard(self, number: int) -> np.ndarray:
        """The array of a shard, mapped at the first call."""
        found = self._maps.get(number)
        if found is None:
            path = self.data_root / shard_names(number)[0]
            found = np.load(path, mmap_mode='r', allow_pickle=False)
            flips = (2, ) if self.index['flips'] else ()
            expected = (len(self._ranges[number]), *flips, *self.shape)
            if found.shape != expected or found.dtype != np.dtype(STORAGE[self.dtype]):
                raise LatentFilesError(f'{path} is an array {found.shape} of {found.dtype}, but the index says '
                                       f'{expected} of {self.dtype}.')
            self._maps[number] = found
        return found

    def get_batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """``dict(latents=(N, C, h, w), ...)`` of the samples ``indices``, without a loader."""
        keys = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(keys) and keys.min() < 0:
            raise IndexError(f'A sample index must be at least 0, got {keys.min()}.')
        items = keys % len(self)
        flips = (hash64(self.seed, keys) & np.uint64(1)) if self.flip and len(keys) else np.zeros(len(keys), int)
        out = np.empty((len(keys), *self.shape), STORAGE[self.dtype])
        numbers, offsets = np.divmod(items, self.index['shard_size'])
        for i, (number, offset, flip) in enumerate(zip(numbers.tolist(), offsets.tolist(), flips.tolist())):
            sample = self._shard(number)[offset]
            out[i] = sample[flip] if self.index['flips'] else sample
        batch: dict[str, Any] = dict(latents=to_tensor(out, self.dtype))
        for name, values in self.extras.items():
            batch[name] = torch.from_numpy(values[items]) if isinstance(values, np.ndarray) \
                else [values.draw(item, self.seed, k) for item, k in zip(items.tolist(), keys.tolist())]
        return batch
