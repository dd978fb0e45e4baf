"""A teacher's answers on disk, for studies in which many students ask the same questions."""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn


class AnswerStore:
    """Keeps what a teacher said to a batch: its prediction and features, by tap.

    Students trained with the same seed, batch size and data meet the same ``(x_t, t, condition)`` in every iteration
    (:class:`~slimdiff.models.algorithms.DiffusionModel`), so the second one need not ask the teacher again. An answer
    is found by the content of the question, so a store can never give that of another one, and a run of another seed
    only finds nothing. It is a SQLite file, which several processes may use at once, on a local disk.

    Args:
        folder: one file for each teacher is made in it.
        teacher: the network; its weights, precision and class name the file.

    Raises:
        ValueError: ``folder`` can't be written.
    """

    def __init__(self, folder: str | Path, teacher: nn.Module) -> None:
        self.path, self.writes = Path(folder) / f'{fingerprint(teacher)}.sqlite', True
        self._connect()

    def _connect(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.database = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            self.database.execute('PRAGMA journal_mode = WAL')
            self.database.execute('PRAGMA synchronous = OFF')  # what a crash of the machine loses is computed again
            self.database.execute('CREATE TABLE IF NOT EXISTS answers (question BLOB, tap TEXT, dtype TEXT, '
                                  'shape TEXT, value BLOB, PRIMARY KEY (question, tap))')
        except (OSError, sqlite3.Error) as error:
            raise ValueError(f"teacher: cache='{self.path.parent}' can't be used ({error}); give a folder on a local "
                             'disk, or leave it out.') from None

    def __getstate__(self) -> dict[str, Any]:
        return {'path': self.path, 'writes': self.writes}  # a copy opens the file anew

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connect()

    @staticmethod
    def question(*parts: Tensor | None) -> bytes:
        """Key of a batch: the hash of its tensors, their shapes and dtypes."""
        key = hashlib.blake2b(digest_size=16)
        for part in parts:
            key.update(b'-' if part is None else f'{part.dtype}{tuple(part.shape)}'.encode() + to_bytes(part))
        return key.digest()

    def get(self, question: bytes, taps: Iterable[str], device: torch.device) -> dict[str, Tensor] | None:
        """The answers at all of ``taps``; None if one is missing."""
        found = {}
        for tap in taps:
            row = self.database.execute('SELECT dtype, shape, value FROM answers WHERE question = ? AND tap = ?',
                                        (question, tap)).fetchone()
            if row is None:
                return None
            dtype, shape, value = row
            flat = torch.frombuffer(bytearray(value), dtype=getattr(torch, dtype))
            tensor = flat.view(json.loads(shape)).to(device)
            found[tap] = tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
        return found

    def put(self, question: bytes, answers: Mapping[str, Tensor]) -> None:
        """Keep answers by tap. A full disk ends the writing, not the training."""
        rows = [(question, tap, str(value.dtype).removeprefix('torch.'), json.dumps(list(value.shape)),
                 to_bytes(value)) for tap, value in answers.items()]
        try:
            if self.writes:
                self.database.executemany('INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)', rows)
        except sqlite3.Error as error:
            self.writes = False
            print_log(f'{self.path}: {error}. No further answers of the teacher are kept.', logger='current',
                      level=logging.WARNING)


def to_bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def fingerprint(network: nn.Module) -> str:
    """16 hexadecimal digits of a network's class, config and weights."""
    key = hashlib.blake2b(digest_size=8)
    config = {k: v for k, v in dict(getattr(network, 'config', {})).items() if not k.startswith('_')}  # no paths
    key.update(f'{type(network).__name__} {sorted(config.items(), key=str)}'.encode())
    for name, value in network.state_dict().items():
        key.update(name.encode() + str(value.dtype).encode())
        key.update(to_bytes(value))
    return key.hexdigest()
