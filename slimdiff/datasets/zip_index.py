"""Where the members of a zip archive lie, as arrays: ``zipfile`` keeps an object of half a kilobyte for each."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slimdiff.datasets.file_reader import FileReader
from slimdiff.datasets.packed import PackedStrings

MEMBER = np.dtype([('offset', '<u8'), ('stored', '<u8'), ('size', '<u8'), ('crc', '<u4'), ('method', '<u2'),
                   ('flags', '<u2')])
ENCRYPTED = 1


class ZipIndex:
    """Random access to the files in a zip archive, from any process.

    Raises:
        ValueError: no zip archive, or one that was cut off.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                infos = [info for info in archive.infolist() if not info.is_dir()]
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise ValueError(f"data_root: '{path}' is not a zip archive, or its download was cut off ({error}). "
                             '`unzip -t` tells; get it again.') from None
        self.names: Sequence[str] = PackedStrings(info.filename for info in infos)
        self._members = np.array([(info.header_offset, info.compress_size, info.file_size, info.CRC,
                                   info.compress_type, info.flag_bits) for info in infos], MEMBER)
        self._reader = FileReader([path])

    def __len__(self) -> int:
        return len(self._members)

    def keep(self, items: Sequence[int]) -> None:
        """Forget all members but these, which get the numbers 0, 1, ... in this order.

        Raises:
            ValueError: one of them cannot be read at random: it is encrypted, or compressed by a rare method.
        """
        self.names, self._members = PackedStrings(self.names[i] for i in items), self._members[items]
        encrypted = self._members['flags'] & ENCRYPTED != 0
        rare = ~np.isin(self._members['method'], (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        for item in np.flatnonzero(encrypted | rare)[:1]:
            how = 'encrypted' if encrypted[item] else f"compressed by method {self._members['method'][item]}"
            raise ValueError(f"data_root: '{self.names[item]}' in '{self.path}' is {how}. Only stored and deflated "
                             'members can be read at random: unpack the archive, and pack it again with `zip -0 -r`.')

    def read(self, item: int) -> bytes:
        """The content of a member.

        Raises:
            ValueError: it is damaged.
        """
        offset, stored, size, crc, method, _ = self._members[item].tolist()
        # The local header: 30 bytes, the name, and an extra field which may differ from that of the central directory.
        header = self._reader.read(0, offset, 30)
        if header[:4] != b'PK\x03\x04':
            raise ValueError('it does not lie where the directory of the archive says')
        name_length, extra_length = struct.unpack('<HH', header[26:30])
        content = self._reader.read(0, offset + 30 + name_length + extra_length, stored)
        if method == zipfile.ZIP_DEFLATED:
            try:
                content = zlib.decompress(content, -zlib.MAX_WBITS)
            except zlib.error as error:
                raise ValueError(f'its compressed data are damaged ({error})') from None
        if len(content) != size or zlib.crc32(content) != crc:
            raise ValueError('its checksum is wrong')
        return content
