"""LaionTars: images and captions in tar files, as img2dataset writes them."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.dist import get_dist_info
from mmengine.logging import print_log

from slimdiff.datasets.file_reader import FileReader
from slimdiff.datasets.index_cache import Index, find_index, save_index, stamp_of
from slimdiff.datasets.missing import missing_data
from slimdiff.datasets.packed import PackedStrings
from slimdiff.datasets.records import RecordDataset
from slimdiff.datasets.tar_index import BLOCK, expand_shards, index_tar, name_before
from slimdiff.progress import Progress
from slimdiff.registry import DATASETS


def find_shards(root: Path, shards: str | Sequence[str], section: str) -> list[Path]:
    """The files that ``shards`` names in ``root``.

    Raises:
        ValueError: there is no such folder or file, a file is named twice, or is not a plain tar on a disk.
    """
    patterns = [shards] if isinstance(shards, str) else list(shards)
    for text in (str(root), *patterns):
        if '://' in text or text.startswith('pipe:'):
            raise ValueError(f"shards: '{text}' is not on a disk. Samples are read at random, so copy the tars here.")
    if not root.is_dir():
        raise missing_data(root, 'folder', section)
    found: list[Path] = []
    for pattern in patterns:
        for name in expand_shards(pattern):
            files = sorted(map(Path, glob.glob(str(Path(glob.escape(str(root))) / name)))) \
                if glob.has_magic(name) else [root / name]
            if not files or not files[0].is_file():
                raise missing_data(root / name, 'tar file', section, argument='shards')
            found += files
    packed = [path for path in found if path.name.endswith(('.gz', '.tgz', '.bz2', '.xz', '.zst'))]
    if packed:
        raise ValueError(f"shards: '{packed[0]}' is compressed and so cannot be read at random. Unpack it to a .tar.")
    doubled = len(found) - len(set(found))
    if doubled:
        raise ValueError(f'shards: {doubled} files are named twice by {patterns}; their images would count double.')
    return found


@DATASETS.register_module()
class LaionTars(RecordDataset):
    """Images with captions in webdataset tars, as img2dataset makes them of LAION: 000000012.jpg, .txt and .json.

    webdataset reads such tars as streams, split over ranks and workers and shuffled in a buffer; where such a stream
    stands after a resume, or after another number of workers, cannot be told without reading all before it. Here each
    tar is indexed once (webdataset's rules say which files are a sample and which shards a pattern names), and then
    samples are read by number, as in any other data set. So the sampler alone decides who reads what: nothing is lost
    or doubled over ranks and workers, shuffling is over everything, and a resumed run goes on at the exact sample. The
    price is a seek for each image: keep the tars on an SSD or in the page cache.

    Indices are kept beside the tars, in a folder ``.slimdiff`` (or in the user's cache): 24 bytes a sample, mapped,
    not loaded. An interrupted indexing goes on where it stopped, and ranks that share a disk share the work.

    A tar that is cut off or damaged, and images without a caption, are an error that names them. With
    ``on_error='skip'`` what comes before the damage is used, and the rest counted: a tar as one, images one by one.

    Args:
        data_root: the folder with the tars.
        shards: their names there: a pattern such as ``*.tar`` or ``{00000..00331}.tar``, or a list of such.
        caption: where it stands: 'txt', or 'json' (its key ``caption``).
        image_size, pipeline, on_error, seed: as of :class:`~slimdiff.datasets.image_folder.ImageFolder`.

    Raises:
        MissingPackageError: the package webdataset is missing.
        ValueError: missing or damaged tars, no sample in them, images without a caption.
    """

    gives = 'bytes'
    section = 'laion'

    def __init__(self, data_root: str, shards: str | Sequence[str] = '*.tar', caption: str = 'txt',
                 image_size: int = 256, pipeline: Sequence[dict] | None = None, on_error: str = 'raise', seed: int = 0):
        super().__init__(data_root, image_size, pipeline, on_error, seed)
        if caption not in ('txt', 'json'):
            raise ValueError(f"caption must be 'txt' or 'json', got {caption!r}.")
        self.caption = caption
        self._shards = find_shards(self.data_root, shards, self.section)
        self._reader = FileReader(PackedStrings(map(str, self._shards)))
        self._samples, ends, without, unused = self._index()
        self._ends = np.array(ends.array)
        self.leave_out(_Names(self, without), 'images without a caption',
                       f"The .{caption} files are empty or lack (caption='json' and 'txt' are the two places)")
        if len(unused):
            print_log(f"Left out {len(unused)} images and captions in '{self.data_root}' that are of no sample "
                      f'(a second image, or a caption alone), such as {_Names(self, unused)[0]}.', logger='current',
                      level=logging.WARNING)
        if not len(self._samples):
            raise ValueError(f"'{self.data_root}' has no image with a caption in its {len(self._shards)} tars "
                             f"({self._shards[0].name}, ...). Expected are files such as 000000012.jpg and "
                             f'000000012.{caption}.')
        self.set_length(len(self._samples))

    def _index(self) -> tuple[Index, Index, Index, Index]:
        """All samples with a caption; where each shard's end among them; (shard, offset) of images without one, and of
        files that are of no sample."""
        names = hashlib.sha256('\n'.join(path.name for path in self._shards).encode()).hexdigest()[:8]
        whole = self.data_root / f'shards-{names}'
        stamp = stamp_of(self._shards, self.caption)
        kinds = ('samples', 'ends', 'without', 'unused')
        kept = [find_index(whole, f'{kind}-{self.caption}', stamp) for kind in kinds]
        if None not in kept:
            return tuple(kept)
        parts, broken = self._index_shards()
        self.leave_out(PackedStrings(f'{self._shards[i].name}: {text}' for i, text in sorted(broken.items())),
                       'broken tar files', 'Download or make them again')
        has = [part['caption_size'] > 0 for part in parts]
        without, unused = (
            np.concatenate([np.stack([np.full(len(bad), i), bad['image_offset'].astype(np.int64)], 1) for i, bad in
                            enumerate(part[~good & ((part['image_size'] > 0) == image)]
                                      for part, good in zip(parts, has))]) for image in (True, False))
        arrays = (np.concatenate([part[good] for part, good in zip(parts, has)]),
                  np.cumsum([good.sum() for good in has], dtype=np.int64), without, unused)
        if broken:  # the next start shall look at them again
            return tuple(map(Index, arrays))
        return tuple(save_index(whole, f'{kind}-{self.caption}', stamp, array) for kind, array in zip(kinds, arrays))

    def _index_shards(self) -> tuple[list[np.ndarray], dict[int, str]]:
        """The samples of each shard, and what is wrong with those that are damaged."""
        rank, world_size = get_dist_info()
        count = len(self._shards)
        parts: dict[int, np.ndarray] = {}
        broken: dict[int, str] = {}
        with Progress(count, 'indexing', unit='tar') as progress:
            # Each rank starts elsewhere, and finds done what the others did meanwhile.
            for i in range(count):
                number = (i + rank * count // world_size) % count
                path = self._shards[number]
                stamp = stamp_of([path], self.caption)
                found = find_index(path, f'samples-{self.caption}', stamp)
                if found is None:
                    samples, problems = index_tar(path, self.caption)
                    if problems:
                        broken[number] = problems[0]
                    else:
                        save_index(path, f'samples-{self.caption}', stamp, samples)
                else:
                    samples = np.array(found.array)  # a copy: 40,000 mapped files would be too many
                parts[number] = samples
                progress.update()
        return [parts[i] for i in range(count)], broken

    def _place(self, item: int) -> tuple[int, tuple[int, int, int, int]]:
        """Number of the shard, and offset and size of image and caption."""
        return int(np.searchsorted(self._ends, item, side='right')), self._samples.array[item].tolist()

    def member(self, shard: int, offset: int) -> str:
        """Name of the file whose content starts at ``offset``, after its shard's."""
        return f'{self._shards[shard].name}: {name_before(self._reader.read(shard, offset - BLOCK, BLOCK))}'

    def name_of(self, item: int) -> str:
        shard, (offset, *_) = self._place(item)
        try:
            return f'{self.data_root}/{self.member(shard, offset)}'
        except (OSError, ValueError):  # the tar is gone or shorter now
            return f'{self.data_root}/{self._shards[shard].name}: the image at byte {offset}'

    def load(self, item: int, k: int) -> dict:
        shard, (image, image_size, text, text_size) = self._place(item)
        caption = self._reader.read(shard, text, text_size).decode('utf-8-sig')
        if self.caption == 'json':
            caption = json.loads(caption).get('caption')
            if not isinstance(caption, str):
                raise ValueError(f"its .json has the caption {caption!r}")
        return dict(img_path=str(self._shards[shard]), img_bytes=self._reader.read(shard, image, image_size),
                    caption=' '.join(caption.split()))


class _Names(Sequence):
    """Names of images of which only the places are kept; read from the tars when asked for."""

    def __init__(self, dataset: LaionTars, places: Index):
        self._dataset, self._places = dataset, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> str:
        return self._dataset.member(*self._places.array[index].tolist())
