"""FashionMNIST and MNIST: small grey images, held in memory as bytes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from slimdiff.datasets.batched import BatchedDataset
from slimdiff.datasets.idx import read_idx
from slimdiff.datasets.missing import DOCS_PAGE, MissingDataError
from slimdiff.registry import DATASETS
from slimdiff.spelling import did_you_mean

FILES = {
    'train': ('train-images-idx3-ubyte', 'train-labels-idx1-ubyte'),
    'test': ('t10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte'),
}


def find_file(folder: Path, name: str) -> Path | None:
    """``name`` in ``folder``, plain or as ``.gz``."""
    return next((path for path in (folder / name, folder / f'{name}.gz') if path.is_file()), None)


def download(names: Sequence[str], url: str, checksums: dict[str, str], folder: str) -> list[Path]:
    """Get ``<name>.gz`` from the user's cache; into it first, if it isn't there. Its checksum is compared.

    Raises:
        ImportError: pooch is not installed.
        OSError: there is no connection.
        ValueError: the file that came is another one.
    """
    import pooch
    loader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=20)
    return [Path(pooch.retrieve(f'{url}{name}.gz', f'md5:{checksums[name]}', f'{name}.gz',
                                pooch.os_cache('slimdiff') / folder, downloader=loader)) for name in names]


@DATASETS.register_module()
class FashionMNIST(BatchedDataset):
    """Fashion-MNIST (Xiao et al. 2017): 70,000 grey images of clothes, shoes and bags in 10 classes.

    All images lie in memory (47 MB for the training images), so a loader needs no workers. Without ``data_root``, the
    files come from Debian's package ``dataset-fashion-mnist``, or are downloaded once (30 MB) by ``pooch``.

    Args:
        data_root: the folder with the IDX files, as published (``train-images-idx3-ubyte.gz``, ...) or unpacked.
        split: 'train' (60,000 images) or 'test' (10,000).
        image_size: side of the images that come out: 28 pixels and a black border, divided by ``pool``.
        pool: average squares of ``pool`` x ``pool`` pixels: ``image_size=16, pool=2`` halves the 32x32 images.

    A sample is ``dict(inputs=float32 (1, image_size, image_size) in [-1, 1], labels=int)``.

    Raises:
        MissingDataError: the files are nowhere; says all ways to get them.
        ValueError: a bad argument, or files that are cut off, are of another kind or don't belong together.
    """

    #: The images are published in random order: the first so many are as good a sample as any.
    random_order = True
    title = 'Fashion-MNIST'
    classes: Sequence[str] = ('T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker',
                              'Bag', 'Ankle boot')
    section = 'fashion-mnist'
    #: Debian's package of the files.
    package = 'dataset-fashion-mnist'
    system_folder = Path('/usr/share/datasets/fashion-mnist')
    url = 'http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/'
    #: MD5 of the published .gz files.
    checksums = {
        'train-images-idx3-ubyte': '8d4fb7e6c68d591d4c3dfef9ec88bf0d',
        'train-labels-idx1-ubyte': '25c81989df183df01b3e8a0aad5dffbe',
        't10k-images-idx3-ubyte': 'bef4ecab320f06d8554ea6380940ec79',
        't10k-labels-idx1-ubyte': 'bb300cfdad3c16e7a12a480ee83cd310',
    }

    def __init__(self, data_root: str | Path | None = None, split: str = 'train', image_size: int = 32,
                 pool: int = 1) -> None:
        if split not in FILES:
            raise ValueError(f"split must be 'train' or 'test', got {split!r}.{did_you_mean(split, FILES)}")
        self.data_root = None if data_root is None else Path(data_root).expanduser()
        self.split, self.image_size = split, image_size
        images_path, labels_path = self._paths(FILES[split])
        images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
        if len(images) != len(labels):
            raise ValueError(f"'{images_path}' holds {len(images):,} images but '{labels_path}' {len(labels):,} "
                             'labels. Take both from one source.')
        if not len(images):
            raise ValueError(f"'{images_path}' holds no images.")
        if labels.max() >= len(self.classes):
            raise ValueError(f"'{labels_path}' holds the label {labels.max()}; those of {self.title} are 0 to "
                             f'{len(self.classes) - 1}.')
        side = max(images.shape[1:])
        if not (isinstance(image_size, int) and isinstance(pool, int) and pool > 0 and image_size * pool >= side):
            raise ValueError(f'image_size times pool must be an integer of at least {side} pixels (images are padded '
                             f'to it, not cut), got {image_size!r} times {pool!r}.')
        padded = np.zeros((len(images), 1, image_size * pool, image_size * pool), np.uint8)
        before = [(image_size * pool - length) // 2 for length in images.shape[1:]]
        padded[:, 0, before[0]:before[0] + images.shape[1], before[1]:before[1] + images.shape[2]] = images
        squares = padded.reshape(len(images), 1, image_size, pool, image_size, pool)
        self._images = padded if pool == 1 else squares.mean((3, 5), np.float32).round().astype(np.uint8)
        self._labels = labels.astype(np.int64)

    def _paths(self, names: Sequence[str]) -> list[Path]:
        """Where the files are: in ``data_root``; without one, in the system's folder or the cache of downloads."""
        folder = self.data_root or self.system_folder
        paths = [find_file(folder, name) for name in names]
        if all(paths):
            return paths
        missing = next(name for name, path in zip(names, paths) if path is None)
        if self.data_root is not None:
            raise self._missing(f"data_root: there is no file '{(folder / missing).absolute()}[.gz]'.")
        try:
            return download(names, self.url, self.checksums, self.section)
        except (ImportError, OSError, ValueError) as error:
            reason = str(error).partition('\n')[0]
            raise self._missing(f"{self.title} is not in '{folder}', and cannot be downloaded "
                                f'({type(error).__name__}: {reason}).') from error

    def _missing(self, state: str) -> MissingDataError:
        debian = f'`apt install {self.package}` (Debian, Ubuntu); ' if self.package else ''
        return MissingDataError(
            f"{state} Ways to get it: {debian}data_root='FOLDER' with the published files {', '.join(self.checksums)} "
            '(.gz or unpacked); `pip install pooch` and a connection, to download them once. '
            f'{DOCS_PAGE}#{self.section}')

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def metainfo(self) -> dict:
        return dict(dataset=type(self).__name__, classes=list(self.classes), image_size=self.image_size,
                    split=self.split)

    def __len__(self) -> int:
        return len(self._images)

    def get_batch(self, indices: Sequence[int]) -> dict:
        """``dict(inputs=(N, 1, image_size, image_size), labels=int64 (N,))`` of the images ``indices``."""
        inputs = torch.from_numpy(self._images[indices]).float().div_(127.5).sub_(1)
        return dict(inputs=inputs, labels=torch.from_numpy(self._labels[indices]))


@DATASETS.register_module()
class MNIST(FashionMNIST):
    """MNIST (LeCun et al. 1998): 70,000 grey images of handwritten digits, in the format of Fashion-MNIST.

    Debian has no package of it: the files come from ``data_root``, or are downloaded once (12 MB) by ``pooch``.
    """

    title = 'MNIST'
    classes = tuple('0123456789')
    section = 'mnist'
    package = None
    system_folder = Path('/usr/share/datasets/mnist')
    url = 'https://ossci-datasets.s3.amazonaws.com/mnist/'
    checksums = {
        'train-images-idx3-ubyte': 'f68b3c2dcbeaaa9fbdd348bbdeb94873',
        'train-labels-idx1-ubyte': 'd53e105ee54ea40749a09fcbcd1e9432',
        't10k-images-idx3-ubyte': '9fb629c4189551a2d022fa330f9573f3',
        't10k-labels-idx1-ubyte': 'ec29112dd5afa0611ce80d1b7f02629c',
    }
