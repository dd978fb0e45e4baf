"""Small genuine IDX files of the four of MNIST."""

import gzip
import struct

import numpy as np

NAMES = {'train': 'train', 'test': 't10k'}


def idx_bytes(array):
    """The format as it is published: zeros, type 8, number of dimensions, sizes (big-endian), bytes."""
    return struct.pack(f'>HBB{array.ndim}I', 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(folder, count=20, size=28, split='train', packed=True, seed=0):
    """Random images (count, size, size) and the labels 0, 1, ..., 9, 0, ...; returns the images."""
    images = np.random.default_rng(seed).integers(0, 256, (count, size, size), dtype=np.uint8)
    labels = np.arange(count, dtype=np.uint8) % 10
    for array, kind in ((images, 'images-idx3'), (labels, 'labels-idx1')):
        path = folder / f'{NAMES[split]}-{kind}-ubyte{".gz" if packed else ""}'
        path.write_bytes(gzip.compress(idx_bytes(array)) if packed else idx_bytes(array))
    return images
