"""CIFAR10: the binary version of Krizhevsky's small images."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slimdiff.datasets.file_reader import FileReader
from slimdiff.datasets.missing import missing_data
from slimdiff.datasets.records import RecordDataset
from slimdiff.registry import DATASETS

RECORD_BYTES = 1 + 3 * 32 * 32  # the label, then the red, the green and the blue plane, row by row
FILES = {'train': [f'data_batch_{i}.bin' for i in range(1, 6)], 'test': ['test_batch.bin']}


def check_folder(root: Path, files: Sequence[str], section: str) -> None:
    """Raise ValueError unless all ``files`` lie in ``root``; names the python version, where that lies there."""
    if not root.is_dir():
        raise missing_data(root, 'folder', section)
    missing = [name for name in files if not (root / name).is_file()]
    if not missing:
        return
    if any((root / name).is_file() for name in ('batches.meta', 'data_batch_1', 'test_batch')):
        raise ValueError(f"data_root: '{root}' holds the python version of CIFAR-10, whose files are pickles: reading "
                         'them may run any code. Get the binary version, cifar-10-binary.tar.gz: '
                         f'docs/en/user_guides/datasets.md#{section}')
    inner = [path.name for path in root.iterdir() if (path / files[0]).is_file()]
    if inner:
        raise ValueError(f"data_root: the files of CIFAR-10 lie one folder deeper. Set data_root='{root / inner[0]}'.")
    raise missing_data(root / missing[0], 'file', section)


@DATASETS.register_module()
class CIFAR10(RecordDataset):
    """CIFAR-10 (Krizhevsky 2009), from the files of its *binary* version.

    A record is 3,073 bytes: the label, then 1,024 of each colour. Records are read from the files one by one, so the
    operating system's cache holds them once for all processes. The python version is a pickle, and so never read.

    Args:
        data_root: the folder ``cifar-10-batches-bin``.
        split: 'train' (``data_batch_1.bin`` to ``_5``; 50,000 images) or 'test' (``test_batch.bin``; 10,000).
        image_size, pipeline, on_error, seed: as of :class:`~slimdiff.datasets.image_folder.ImageFolder`. There is
            nothing to load, so the pipeline starts with pixels: ``img`` (32, 32, 3), BGR.

    Raises:
        ValueError: missing or cut off files, the python version; later, a record whose label is not a class.
    """

    gives = 'array'
    section = 'cifar-10'

    def __init__(self, data_root: str, split: str = 'train', image_size: int = 32,
                 pipeline: Sequence[dict] | None = None, on_error: str = 'raise', seed: int = 0):
        super().__init__(data_root, image_size, pipeline, on_error, seed)
        if split not in FILES:
            raise ValueError(f"split must be 'train' or 'test', got {split!r}.")
        names = FILES[split]
        check_folder(self.data_root, [*names, 'batches.meta.txt'], self.section)
        meta = self.data_root / 'batches.meta.txt'
        self.classes = meta.read_text(encoding='utf-8').split()
        if len(self.classes) != 10:
            raise ValueError(f"'{meta}' names {len(self.classes)} classes instead of 10. Unpack the archive again.")
        self._paths = [self.data_root / name for name in names]
        sizes = [path.stat().st_size for path in self._paths]
        for path, size in zip(self._paths, sizes):
            if size == 0 or size % RECORD_BYTES:
                raise ValueError(f"'{path}' is cut off: its {size} bytes are not a whole number of records of "
                                 f'{RECORD_BYTES} bytes. Unpack the archive again.')
        self._starts = np.cumsum([0, *(size // RECORD_BYTES for size in sizes)]).tolist()
        self._reader = FileReader(self._paths)
        self.set_length(self._starts[-1])

    def _place(self, item: int) -> tuple[int, int]:
        """Number of the file, and of the record in it."""
        file = bisect.bisect_right(self._starts, item) - 1
        return file, item - self._starts[file]

    def name_of(self, item: int) -> str:
        file, record = self._place(item)
        return f'{self._paths[file]}, record {record}'

    def load(self, item: int, k: int) -> dict:
        file, record = self._place(item)
        content = np.frombuffer(self._reader.read(file, record * RECORD_BYTES, RECORD_BYTES), np.uint8)
        if content[0] >= len(self.classes):
            raise ValueError(f'its label is {content[0]}, labels are 0 to {len(self.classes) - 1}')
        planes = content[1:].reshape(3, 32, 32)
        image = np.ascontiguousarray(planes[::-1].transpose(1, 2, 0))  # BGR, as the transforms expect
        return dict(img=image, img_shape=(32, 32), ori_shape=(32, 32), gt_label=int(content[0]))
