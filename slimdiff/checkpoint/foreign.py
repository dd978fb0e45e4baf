"""Checkpoints that others wrote, which hold objects besides tensors: read without running anything in them.

PyTorch Lightning's files keep callbacks, configs and numpy scalars beside the weights, so ``weights_only=True`` refuses
them. :func:`load_foreign` then reads the pickle with :class:`~slimdiff.checkpoint.pickle_data.PickleReader`: tensors,
containers, numbers and text are there as they were, and everything else is a stand-in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import mmap
import re
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimdiff.checkpoint.files import CheckpointError, check_file
from slimdiff.checkpoint.pickle_data import Global, PickleDataError, PickleReader, StandIn

#: what to do about a damaged file: it was made elsewhere
AGAIN = 'Download or copy it again.'
LEGACY_MAGIC = 0x1950a86a20f9469cfc6c
LEGACY_PROTOCOL = 1001
STORAGES = {
    f'torch.{name}Storage': dtype
    for name, dtype in dict(Float=torch.float32, Double=torch.float64, Half=torch.float16, BFloat16=torch.bfloat16,
                            Long=torch.int64, Int=torch.int32, Short=torch.int16, Char=torch.int8, Byte=torch.uint8,
                            Bool=torch.bool).items()
}


@dataclasses.dataclass
class ForeignCheckpoint:
    """What a file holds, and the names of what was left out of it."""
    data: Any
    stand_ins: list[str]


def load_foreign(path: str | Path) -> ForeignCheckpoint:
    """Read a file of ``torch.save`` (the zip format or the one before it) or safetensors, with tensors on the CPU.

    Tensors are mapped, not read: what isn't used takes no memory.

    Raises:
        CheckpointError: missing, damaged, hostile, or none of these formats.
    """
    path = Path(path)
    check_file(path, AGAIN)
    if path.suffix == '.safetensors':
        return ForeignCheckpoint(_read_safetensors(path), [])
    zipped = zipfile.is_zipfile(path)
    if not zipped and _is_tar(path):
        # Before torch sees it: its reader of this format was not safe before 2.6 (CVE-2025-32434).
        raise CheckpointError(f'{path} is a tar archive. PyTorch wrote such checkpoints before 0.1.10 (2017), and '
                              'slimdiff does not read them: if this is a download, unpack it first.')
    with contextlib.suppress(Exception), warnings.catch_warnings():  # the reader below says what is wrong
        warnings.simplefilter('ignore')
        return ForeignCheckpoint(torch.load(path, map_location='cpu', weights_only=True, mmap=zipped), [])
    try:
        return (_read_zip if zipped else _read_legacy)(path)
    except PickleDataError as error:
        raise CheckpointError(f'{path} is not a checkpoint that slimdiff can read: {error}.') from error


def _is_tar(path: Path) -> bool:
    try:
        with tarfile.open(path, 'r:'):
            return True
    except (tarfile.TarError, OSError, EOFError):
        return False


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f'{path} is damaged, or not in safetensors format: {error}. {AGAIN}') from error


# ---- tensors ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Storage:
    """A storage of the file: (numel,) values."""
    values: Tensor


def _require(condition: Any, what: str) -> None:
    if not condition:
        raise PickleDataError(what)


def _whole(*values: Any) -> bool:
    return all(type(value) is int and 0 <= value < 2**48 for value in values)


def mapped(path: Path) -> Tensor:
    """The bytes of a file; writing to them changes a copy."""
    return torch.from_numpy(np.memmap(path, dtype=np.uint8, mode='c'))


def values_at(data: Tensor, start: int, count: int, dtype: torch.dtype) -> Tensor:
    """``count`` values of ``dtype`` from byte ``start``."""
    _require(start + count * dtype.itemsize <= len(data), 'the file ends within its tensors: download or copy it again')
    raw = data[start:start + count * dtype.itemsize]
    return (raw if start % dtype.itemsize == 0 else raw.clone()).view(dtype)


def rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view into a storage; every index of it is checked to lie inside."""
    _require(isinstance(storage, Storage), 'a tensor without a storage')
    _require(type(size) is tuple and type(stride) is tuple and len(size) == len(stride) and _whole(
        offset, *size, *stride), 'a tensor of an impossible shape')
    count = len(storage.values)
    if 0 in size:
        _require(math.prod(n or 1 for n in size) < 2**48, 'a tensor of an impossible shape')
        return storage.values.new_empty(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    _require(last < count and math.prod(size) <= count, 'a tensor that reaches beyond its storage')
    # Not as_strided(size, stride, offset): its offset counts from the beginning of the file that is mapped.
    return storage.values[offset:].as_strided(size, stride)


def rebuild_parameter(data: Any, *_: Any) -> Tensor:
    _require(isinstance(data, Tensor), 'a parameter that is no tensor')
    return data


def rebuild_dict(*arguments: Any) -> dict:
    """An OrderedDict or defaultdict; the items follow, or (protocols 0 and 1) are given as pairs."""
    pairs = arguments[0] if arguments and type(arguments[0]) is list else []
    _require(all(type(pair) in (list, tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs),
             'a dict of something else than pairs')
    return {key: value for key, value in pairs}


def rebuild_set(elements: Any = ()) -> list:
    """A list: what is in the file need not be hashable."""
    _require(type(elements) in (list, tuple), 'a set of something else than a list')
    return list(elements)


def rebuild_bytes(text: Any, encoding: Any = 'latin1') -> bytes:
    """Bytes, as protocol 2 writes them."""
    _require(isinstance(text, str) and encoding == 'latin1', 'bytes in an unknown encoding')
    return text.encode('latin1')


BUILDERS: dict[str, Callable[..., Any]] = {
    'torch._utils._rebuild_tensor': rebuild_tensor,
    'torch._utils._rebuild_tensor_v2': rebuild_tensor,
    'torch._utils._rebuild_parameter': rebuild_parameter,
    'collections.OrderedDict': rebuild_dict,
    'collections.defaultdict': rebuild_dict,
    '_codecs.encode': rebuild_bytes,
    'builtins.set': rebuild_set,
    'builtins.frozenset': rebuild_set,
    '__builtin__.set': rebuild_set,
    '__builtin__.frozenset': rebuild_set,
    'torch.Size': lambda *sizes: tuple(sizes[0]) if sizes and type(sizes[0]) in (tuple, list) else (),
}


def _storage_id(identity: Any) -> tuple[torch.dtype, str, int, Any]:
    """(dtype, key, numel, view) of a persistent id."""
    _require(type(identity) is tuple and len(identity) >= 5 and identity[0] == 'storage', 'an unknown persistent id')
    _, kind, key, _, count, *rest = identity
    _require(isinstance(kind, Global) and isinstance(key, str) and re.fullmatch(r'[0-9]{1,20}', key)
             and _whole(count), 'a storage with an impossible name or size')
    _require(kind.name in STORAGES, f'a storage of the unknown type {kind.name}')
    return STORAGES[kind.name], key, count, rest[0] if rest else None


def _reader(persistent: Callable[[Any], Any]) -> PickleReader:
    return PickleReader(BUILDERS, persistent, frozenset(STORAGES))


# ---- the two formats ----------------------------------------------------------------------------------------------


def _read_zip(path: Path) -> ForeignCheckpoint:
    """A zip archive with NAME/data.pkl and one uncompressed record NAME/data/KEY for each storage."""
    data = mapped(path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name == 'data.pkl' or name.endswith('/data.pkl')]
        _require(len(pickles) == 1, f'a zip archive with {len(pickles)} files data.pkl, where torch.save writes one')
        prefix = pickles[0].removesuffix('data.pkl')
        _require(all(e.compress_type == zipfile.ZIP_STORED for e in entries.values() if e.filename.startswith(prefix)),
                 'its records are compressed, which torch.save never does')
        order = entries.get(f'{prefix}byteorder')
        _require(order is None or archive.read(order) == b'little', 'it was written on a big-endian machine')
        text = archive.read(pickles[0])

    def persistent(identity: Any) -> Any:
        dtype, key, count, _ = _storage_id(identity)
        entry = entries.get(f'{prefix}data/{key}')
        _require(entry is not None and entry.file_size >= count * dtype.itemsize, f'the storage {key} is not all there')
        header = bytes(data[entry.header_offset:entry.header_offset + 30].tolist())
        _require(len(header) == 30, 'the archive is cut off')
        name, extra = struct.unpack('<HH', header[26:30])
        return Storage(values_at(data, entry.header_offset + 30 + name + extra, count, dtype))

    reader = _reader(persistent)
    content = reader.read(io.BytesIO(text))
    return ForeignCheckpoint(content, list(reader.met))


def _read_legacy(path: Path) -> ForeignCheckpoint:
    """Before PyTorch 1.6: pickles (magic number, version, machine, content, storage keys), then the storages.

    The content is read twice: for the storages' types, which say where each begins, and then with them.
    """
    data = mapped(path)
    types: dict[str, tuple[torch.dtype, int]] = {}
    storages: dict[str, Tensor] = {}

    def persistent(identity: Any) -> Any:
        dtype, key, count, view = _storage_id(identity)
        types[key] = (dtype, count)
        if key not in storages:
            return Storage(torch.empty(0, dtype=dtype))
        if view is None:
            return Storage(storages[key])
        _require(type(view) is tuple and len(view) == 3 and _whole(*view[1:]) and sum(view[1:]) <= count,
                 'a storage that reaches beyond another')
        return Storage(storages[key][view[1]:view[1] + view[2]])

    # A map, not the file: reading gives what is there, however much a hostile length asks for.
    with open(path, 'rb') as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file:
        _require(_plain(file) == LEGACY_MAGIC, 'neither a file of torch.save nor safetensors')
        version, machine = _plain(file), _plain(file)
        _require(version == LEGACY_PROTOCOL, f'its version is {version}, not {LEGACY_PROTOCOL}')
        _require(type(machine) is dict and machine.get('little_endian') is True,
                 'it was written on a big-endian machine')
        start = file.tell()
        PickleReader({**BUILDERS, **dict.fromkeys(
            (name for name in BUILDERS if name.startswith('torch._utils.')), lambda *_: StandIn('tensor'))},
            persistent, frozenset(STORAGES)).read(file)
        keys = _plain(file)
        _require(type(keys) is list and all(key in types for key in keys), 'its list of storages is wrong')
        place = file.tell()
        for key in keys:
            dtype, count = types[key]
            header = bytes(data[place:place + 8].tolist())
            _require(len(header) == 8 and struct.unpack('<q', header)[0] == count, f'the storage {key} is cut off: '
                     'download or copy the file again')
            storages[key] = values_at(data, place + 8, count, dtype)
            place += 8 + count * dtype.itemsize
        file.seek(start)
        reader = _reader(persistent)
        return ForeignCheckpoint(reader.read(file), list(reader.met))


def _plain(file: Any) -> Any:
    """A pickle that holds no tensor and no object."""

    def refuse(_: Any) -> Any:
        raise PickleDataError('a storage where none belongs')

    return PickleReader({}, refuse).read(file)
