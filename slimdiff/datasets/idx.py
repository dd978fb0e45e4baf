"""IDX files, the format of MNIST: a header that names type and sizes, then the bytes."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np


def read_idx(path: Path, dims: int) -> np.ndarray:
    """The unsigned bytes of an IDX file, plain or in gzip, as an array of ``dims`` dimensions.

    Raises:
        ValueError: another magic number than that of bytes in ``dims`` dimensions, or a file that is cut off or longer
            than its header says.
    """
    content = path.read_bytes()
    if content[:2] == b'\x1f\x8b':
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"'{path}' is cut off or damaged ({error}). Get the file again.") from error
    magic = bytes([0, 0, 8, dims])  # two zeros, the type (8: unsigned byte), the number of dimensions
    if not magic.startswith(content[:4]):
        raise ValueError(f"'{path}' starts with the magic number 0x{content[:4].hex()}, but an IDX file with {dims} "
                         f"dimension{'s' * (dims > 1)} of bytes starts with 0x{magic.hex()}. Is it the right file?")
    start = length = 4 + 4 * dims
    if len(content) >= start:
        shape = np.frombuffer(content[4:start], '>u4').tolist()
        length += math.prod(shape)
    if len(content) != length:
        raise ValueError(f"'{path}' is cut off or damaged: it has {len(content):,} bytes (unpacked) instead of "
                         f'{length:,}. Get the file again.')
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
