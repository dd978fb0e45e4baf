"""PhotoPatches: crops of the photographs inside the scikit-image wheel. Real images, no download."""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from slimdiff.datasets.batched import BatchedDataset
from slimdiff.datasets.seeding import hash64
from slimdiff.registry import DATASETS
from slimdiff.spelling import did_you_mean

# Only files that the wheel itself holds: skimage.data.* would download others (and some of these) with pooch.
PHOTOS = {
    'astronaut': 'astronaut.png',
    'brick': 'brick.png',
    'camera': 'camera.png',
    'chelsea': 'chelsea.png',
    'coffee': 'coffee.png',
    'coins': 'coins.png',
    'grass': 'grass.png',
    'gravel': 'gravel.png',
    'hubble': 'hubble_deep_field.jpg',
    'ihc': 'ihc.png',
    'moon': 'moon.png',
    'motorcycle': 'motorcycle_left.png',
    'retina': 'retina.jpg',
    'rocket': 'rocket.jpg',
}
# Twelve that a small patch of is recognisable from a small patch; moon and camera are nearly flat grey in most places.
DEFAULT_PHOTOS = tuple(name for name in PHOTOS if name not in ('camera', 'moon'))

SPLITS = ('train', 'val')


@functools.lru_cache(maxsize=64)
def load_photo(name: str, short_side: int | None = None, scale: float | None = None) -> np.ndarray:
    """Read a photo as uint8 (H, W, 3), shrunk by Lanczos to ``short_side`` (never enlarged) or by the factor ``scale``.

    The array is read-only: train and validation set share it.

    Raises:
        ValueError: an unknown name, or scikit-image (or its file) is missing.
    """
    if name not in PHOTOS:
        raise ValueError(f"photos: there is no photo '{name}'.{did_you_mean(name, PHOTOS)} Known: {', '.join(PHOTOS)}.")
    spec = importlib.util.find_spec('skimage')  # finds the folder without importing the package (0.2 s)
    if spec is None or spec.origin is None:
        raise ValueError('PhotoPatches reads the photos in the scikit-image wheel, which is not installed. '
                         'Run `pip install scikit-image`.')
    path = Path(spec.origin).parent / 'data' / PHOTOS[name]
    if not path.is_file():
        raise ValueError(f"photos: '{name}' needs {path}, which this scikit-image does not hold. "
                         'Reinstall scikit-image from its wheel, or leave the photo out with `photos=[...]`.')
    with Image.open(path) as image:
        image = image.convert('RGB')
    factor = scale if scale is not None else max(1.0, min(image.size) / short_side)
    size = tuple(max(1, round(side / factor)) for side in image.size)
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    array = np.array(image)
    array.setflags(write=False)
    return array


def block_edges(length: int, image_size: int) -> list[int]:
    """Cut ``length`` pixels into blocks of about ``2 * image_size``; one block if two crops don't fit side by side."""
    count = 1 if length < 2 * image_size else max(2, length // (2 * image_size))
    return [round(i * length / count) for i in range(count + 1)]


def crop_positions(height: int, width: int, image_size: int, split: str) -> np.ndarray:
    """Top-left corners (P, 2) of all crops of a split: those that lie whole in one of its blocks.

    The blocks form a checkerboard over the photo, train on the black fields, validation on the white ones: no pixel
    is in both, and yet both cover the whole photo. (A left/right split, or one block in four for validation, makes
    the distance of train to validation several times larger; see the class.)
    """
    rows, columns = block_edges(height, image_size), block_edges(width, image_size)
    parity = SPLITS.index(split)
    corners = []
    for i, (top, bottom) in enumerate(itertools.pairwise(rows)):
        for j, (left, right) in enumerate(itertools.pairwise(columns)):
            if (i + j) % 2 == parity and bottom - top >= image_size and right - left >= image_size:
                grid = np.mgrid[top:bottom - image_size + 1, left:right - image_size + 1]
                corners.append(grid.reshape(2, -1).T)
    return np.concatenate(corners).astype(np.int32) if corners else np.empty((0, 2), np.int32)


@DATASETS.register_module()
class PhotoPatches(BatchedDataset):
    """Random crops of the photographs in the scikit-image wheel; the label says which photo.

    Crop ``k`` is a function of (seed, split, k) alone: any set of indices gives independent draws, disjoint sets
    independent sets, and ``k`` may exceed ``len``, so that every epoch has fresh crops (``fresh_epochs``). The label
    is ``k % num_classes``: each run of ``num_classes`` indices holds every photo once.

    Train and validation crops come from disjoint, interleaved blocks (:func:`crop_positions`). A Frechet distance on
    random zero-mean convolution features, 4,080 default crops a side: train to train 0.002, train to validation 0.009
    (0.048 if the photos were cut into left and right), train to train blurred by sigma^2 = 0.5 pixels 0.133.

    Args:
        image_size: side of a crop in pixels.
        split: 'train' or 'val'.
        length: what ``len`` says, that is the images of an "epoch".
        seed: another seed, other crops.
        scale: factor by which every photo is shrunk before cropping. None shrinks each until its short side is
            ``8 * image_size`` (256 at 32: an eye or a coin fills a patch), and enlarges none.
        photos: names of the photos to take, in the order of their labels; None takes twelve.

    A sample is ``dict(inputs=float32 (3, image_size, image_size) in [-1, 1], labels=int)``; grey photos have three
    equal channels.

    Raises:
        ValueError: an unknown photo or split, a length or size below 1, a size too large for a photo.
    """

    epoch_indexing = fresh_epochs = True

    def __init__(self, image_size: int = 32, split: str = 'train', length: int = 12_000, seed: int = 0,
                 scale: float | None = None, photos: Sequence[str] | None = None):
        if not isinstance(image_size, int) or image_size < 1:
            raise ValueError(f'image_size must be an integer of at least 1 pixel, got {image_size!r}.')
        if split not in SPLITS:
            raise ValueError(f"split must be 'train' or 'val', got {split!r}.{did_you_mean(split, SPLITS)}")
        if not isinstance(length, int) or length < 1:
            raise ValueError(f'length must be an integer of at least 1, got {length!r}.')
        if scale is not None and not scale > 0:
            raise ValueError(f'scale must be a factor above 0 (2 halves the photos) or None, got {scale!r}.')
        if isinstance(photos, str) or (photos is not None and not photos):
            raise ValueError(f'photos must be a list with at least one name of {", ".join(PHOTOS)}, or None '
                             f'for the default twelve; got {photos!r}.')
        self.image_size, self.split, self.length, self.seed = image_size, split, length, seed
        self.classes = list(photos if photos is not None else DEFAULT_PHOTOS)
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f'photos: each photo may be named once (it is a class), got {self.classes}.')
        self._photos = [load_photo(name, None if scale else 8 * image_size, scale) for name in self.classes]
        corners = [self._corners(name, photo) for name, photo in zip(self.classes, self._photos)]
        self._count = np.array([len(c) for c in corners])
        self._start = np.cumsum(self._count) - self._count
        self._positions = np.concatenate(corners)

    def _corners(self, name: str, photo: np.ndarray) -> np.ndarray:
        height, width = photo.shape[:2]
        corners = {split: crop_positions(height, width, self.image_size, split) for split in SPLITS}
        if not all(map(len, corners.values())):
            largest = min(height, width, max(height, width) // 2)
            raise ValueError(f"image_size={self.image_size} is too large for photo '{name}' of {width}x{height} pixels "
                             f'(after scaling): train and validation each need a block of their own. It gives crops up '
                             f'to {largest}; take a smaller image_size or scale, or leave it out with `photos=[...]`.')
        return corners[self.split]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def metainfo(self) -> dict:
        return dict(dataset='PhotoPatches', classes=self.classes, image_size=self.image_size, split=self.split)

    def __len__(self) -> int:
        return self.length

    def locate(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Labels (N,) and top-left corners (N, 2), in pixels of the scaled photos, of the crops ``indices``."""
        indices = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(indices) and indices.min() < 0:
            raise IndexError(f'A crop index must be at least 0, got {indices.min()}.')
        labels = indices % self.num_classes
        draws = hash64(self.seed, SPLITS.index(self.split), indices) % self._count[labels].astype(np.uint64)
        return labels, self._positions[self._start[labels] + draws.astype(np.int64)]

    def get_batch(self, indices: Sequence[int]) -> dict:
        """``dict(inputs=(N, 3, H, W), labels=int64 (N,))`` of the crops ``indices``, without a loader."""
        size = self.image_size
        labels, corners = self.locate(indices)
        pixels = np.empty((len(labels), size, size, 3), np.uint8)
        for out, label, (top, left) in zip(pixels, labels.tolist(), corners.tolist()):
            out[:] = self._photos[label][top:top + size, left:left + size]
        inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)
        return dict(inputs=inputs, labels=torch.from_numpy(labels))
