"""Checkpoints that others wrote, which hold objects besides tensors: read without running anything in them.

PyTorch Lightning's files keep callbacks, configs and numpy scalars beside the weights, so ``weights_only=True`` refuses
them. :func:`load_foreign` then has torch read the pickle with :mod:`slimdiff.checkpoint.pickle_data`: tensors,
containers, numbers and text are there as they were, and everything else is a stand-in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import MAGIC_NUMBER

from slimdiff.checkpoint.files import CheckpointError, check_file
from slimdiff.checkpoint.pickle_data import PickleDataError, pickle_module, read_plain

#: what to do about a damaged file: it was made elsewhere
AGAIN = 'Download or copy it again.'
#: what a storage may hold
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
          torch.int8, torch.uint8, torch.bool)


@dataclasses.dataclass
class ForeignCheckpoint:
    """What a file holds, and the names of what was left out of it."""
    data: Any
    stand_ins: list[str]


def load_foreign(path: str | Path) -> ForeignCheckpoint:
    """Read a file of ``torch.save`` (the zip format or the one before it) or safetensors, with tensors on the CPU.

    Tensors of a zip file are mapped, not read: what isn't used takes no memory.

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
        size_of = _check_zip(path) if zipped else _check_legacy(path)
        module = pickle_module(BUILDERS, lambda identity: check_storage(identity, size_of))
        content = torch.load(path, map_location='cpu', weights_only=False, mmap=zipped, pickle_module=module)
    except Exception as error:  # torch's reader has many classes of them
        hint = '' if isinstance(error, PickleDataError) else f' {AGAIN}'
        raise CheckpointError(f'{path} is not a checkpoint that slimdiff can read: {error}.{hint}') from error
    return ForeignCheckpoint(content, list(module.met))


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


def _require(condition: Any, what: str) -> None:
    if not condition:
        raise PickleDataError(what)


def _whole(*values: Any) -> bool:
    return all(type(value) is int and 0 <= value < 2**48 for value in values)


def rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view into a storage; every index of it is checked to lie inside."""
    _require(isinstance(storage, torch.TypedStorage), 'a tensor without a storage')
    _require(type(size) is tuple and type(stride) is tuple and len(size) == len(stride) and _whole(
        offset, *size, *stride), 'a tensor of an impossible shape')
    # The bytes of a zip file's storage lie at any address, and torch wants them aligned.
    raw = storage._untyped_storage
    values = torch.empty(0, dtype=torch.uint8).set_(raw)
    values = (values.clone() if raw.data_ptr() % storage.dtype.itemsize else values).view(storage.dtype)
    count = len(values)
    if 0 in size:
        _require(math.prod(n or 1 for n in size) < 2**48, 'a tensor of an impossible shape')
        return values.new_empty(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    _require(last < count and math.prod(size) <= count, 'a tensor that reaches beyond its storage')
    # Not as_strided(size, stride, offset): its offset counts from the beginning of what is mapped.
    return values[offset:].as_strided(size, stride)


def rebuild_parameter(data: Any, *_: Any) -> Tensor:
    _require(isinstance(data, Tensor), 'a parameter that is not a tensor')
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


# ---- what torch would believe the file ----------------------------------------------------------------------------


def check_storage(identity: Any, size_of: Callable[[str], int]) -> None:
    """Check a persistent id: ('storage', type, key, location, number of values[, view]).

    Args:
        size_of: bytes that the file has at most for a key.
    """
    _require(type(identity) is tuple and len(identity) in (5, 6) and identity[0] == 'storage'
             and isinstance(identity[3], str), 'an unknown persistent id')
    _, kind, key, _, count, *view = identity
    dtype = getattr(kind, 'dtype', None)
    _require(_is_key(key) and _whole(count), 'a storage with an impossible name or size')
    _require(dtype in DTYPES, f'a storage of the unknown type {dtype or kind}')
    _require(count * dtype.itemsize <= size_of(key),
             f'the storage {key} is not all there: download or copy the file again')
    if view and view[0] is not None:
        _require(type(view[0]) is tuple and len(view[0]) == 3 and _is_key(view[0][0]) and _whole(*view[0][1:])
                 and sum(view[0][1:]) <= count, 'a storage that reaches beyond another')


def _is_key(key: Any) -> bool:
    return isinstance(key, str) and re.fullmatch(r'[0-9]{1,20}', key) is not None


def _check_zip(path: Path) -> Callable[[str], int]:
    """Check a zip archive with NAME/data.pkl and one uncompressed record NAME/data/KEY for each storage."""
    _require(not torch._C.PyTorchFileReader(str(path)).has_record('constants.pkl'), 'it is a program of TorchScript')
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name == 'data.pkl' or name.endswith('/data.pkl')]
        _require(len(pickles) == 1, f'a zip archive with {len(pickles)} files data.pkl, where torch.save writes one')
        prefix = pickles[0].removesuffix('data.pkl')
        _require(all(e.compress_type == zipfile.ZIP_STORED for e in entries.values() if e.filename.startswith(prefix)),
                 'its records are compressed, which torch.save never does')
        order = entries.get(f'{prefix}byteorder')
        _require(order is None or archive.read(order) == b'little', 'it was written on a big-endian machine')
    sizes = {name.removeprefix(f'{prefix}data/'): entry.file_size for name, entry in entries.items()}
    return lambda key: sizes.get(key, -1)


def _check_legacy(path: Path) -> Callable[[str], int]:
    """Check a file from before PyTorch 1.6: pickles (magic number, version, machine, ...), then the storages."""
    with open(path, 'rb') as file:
        _require(read_plain(file) == MAGIC_NUMBER, 'neither a file of torch.save nor safetensors')
        read_plain(file)  # the version, which torch checks
        machine = read_plain(file)
        _require(type(machine) is dict and machine.get('little_endian') is True,
                 'it was written on a big-endian machine')
    size = path.stat().st_size
    return lambda _: size
