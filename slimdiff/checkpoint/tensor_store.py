"""Tensors on disk by key, for what is expensive to compute and asked for again (a teacher's answers, embeddings)."""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn


class TensorStore:
    """Named tensors for each key, in a SQLite file that several processes may use at once. It belongs on a local disk.

    Args:
        path: the file; it and its folder are made.

    Raises:
        ValueError: the file can't be made, or is no such store.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self.writes, self._complained = Path(path), True, False
        self._connect()

    def _connect(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.database = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            self._use_wal()
            self.database.execute('PRAGMA synchronous = OFF')  # what a crash of the machine loses is computed again
            self.database.execute('CREATE TABLE IF NOT EXISTS tensors (key BLOB, name TEXT, dtype TEXT, shape TEXT, '
                                  'value BLOB, PRIMARY KEY (key, name))')
        except (OSError, sqlite3.Error) as error:
            raise ValueError(f"cache='{self.path.parent}' can't be used ({error}); give a folder on a local disk, or "
                             'leave it out.') from None

    def _use_wal(self, seconds: float = 60) -> None:
        """SQLite's own timeout does not hold here: of two processes that make the file at once, one is refused."""
        end = time.monotonic() + seconds
        while True:
            try:
                self.database.execute('PRAGMA journal_mode = WAL')
                return
            except sqlite3.OperationalError as error:
                if 'locked' not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def __getstate__(self) -> dict[str, Any]:
        # A copy opens the file again.
        return {'path': self.path, 'writes': self.writes, '_complained': self._complained}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connect()

    def get(self, key: bytes, names: Iterable[str], device: torch.device | str = 'cpu') -> dict[str, Tensor] | None:
        """All tensors of ``names``; None if one is missing or damaged."""
        try:
            found = self._read(key, names)
        except (sqlite3.Error, ValueError, TypeError, AttributeError, RuntimeError) as error:
            if not self._complained:
                self._complained = True
                print_log(f'{self.path}: an entry is damaged ({error}). It is made again, as are further ones.',
                          logger='current', level=logging.WARNING)
            return None
        return found and {name: value.to(device) for name, value in found.items()}

    def _read(self, key: bytes, names: Iterable[str]) -> dict[str, Tensor] | None:
        found = {}
        for name in names:
            row = self.database.execute('SELECT dtype, shape, value FROM tensors WHERE key = ? AND name = ?',
                                        (key, name)).fetchone()
            if row is None:
                return None
            dtype, shape, value = row
            tensor = torch.frombuffer(bytearray(value), dtype=getattr(torch, dtype)).view(json.loads(shape))
            found[name] = tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
        return found

    def put(self, key: bytes, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors by name. A full disk ends the writing, with a warning; it does not end the caller."""
        rows = [(key, name, str(value.dtype).removeprefix('torch.'), json.dumps(list(value.shape)), to_bytes(value))
                for name, value in tensors.items()]
        try:
            if self.writes:
                self.database.executemany('INSERT OR REPLACE INTO tensors VALUES (?, ?, ?, ?, ?)', rows)
        except (sqlite3.Error, OverflowError) as error:  # too large for an entry
            self.writes = False
            print_log(f'{self.path}: {error}. Nothing more is kept there.', logger='current', level=logging.WARNING)


def to_bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def content_key(*parts: Tensor | str | None) -> bytes:
    """16 bytes that tell apart tensors (by content, shape and dtype), texts and None."""
    key = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            key.update(f'{part.dtype}{tuple(part.shape)}'.encode() + to_bytes(part))
        else:
            key.update(b'-' if part is None else f'{len(part)}:{part}'.encode())
    return key.digest()


def network_fingerprint(network: nn.Module) -> str:
    """16 hexadecimal digits of a network's class, config and weights."""
    key = hashlib.blake2b(digest_size=8)
    config = getattr(network, 'config', {})
    config = config.to_dict() if hasattr(config, 'to_dict') else dict(config)
    config = {k: v for k, v in config.items() if not k.startswith('_')}  # no paths
    key.update(f'{type(network).__name__} {sorted(config.items(), key=str)}'.encode())
    for name, value in network.state_dict().items():
        key.update(name.encode() + str(value.dtype).encode())
        key.update(to_bytes(value))
    return key.hexdigest()
