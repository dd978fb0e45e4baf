"""Folders: written whole or not at all, and networks of diffusers read from them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch

from slimdiff.checkpoint.files import temporary_beside

#: what diffusers calls the weights of a network
WEIGHTS = 'diffusion_pytorch_model'
#: endings that nobody means a folder by
FILES = ('.pth', '.pt', '.ckpt', '.safetensors', '.bin', '.zip', '.tar')


def variant_of(folder: str | Path) -> str | None:
    """The ``variant`` of ``from_pretrained`` for a folder with, say, ``*.fp16.safetensors`` alone; None for none.

    Raises:
        ValueError: several variants; the message names them.
    """
    names = [file.name.removeprefix(WEIGHTS) for file in Path(folder).glob(f'{WEIGHTS}*')]
    names = [name for name in names if name.endswith(('.safetensors', '.bin'))]
    if any(re.fullmatch(r'(-\d+-of-\d+)?\.(safetensors|bin)', name) for name in names):
        return None
    found = sorted({match[1] for name in names if (match := re.match(r'\.(.+?)(-\d+-of-\d+)?\.\w+$', name))})
    if len(found) > 1:
        raise ValueError(f'{folder} holds weights in several variants, {", ".join(found)}, and none without one: keep '
                         f'one of them, or rename its files to {WEIGHTS}.')
    return found[0] if found else None


def from_pretrained(cls: type, folder: str | Path, whose: str) -> Any:
    """A network of diffusers from a folder, strictly and in float32.

    Args:
        cls: its class.
        whose: network it is, for messages.

    Raises:
        ValueError: a file that can't be read, or weights that are missing, left over or of another shape.
    """
    try:
        # Weights of another shape are not ignored: they are reported below, with those that are missing. diffusers
        # refuses that together with low_cpu_mem_usage, its default.
        network, info = cls.from_pretrained(folder, variant=variant_of(folder), output_loading_info=True,
                                            low_cpu_mem_usage=False, ignore_mismatched_sizes=True,
                                            torch_dtype=torch.float32)
    except Exception as error:  # missing file, damaged file: diffusers and safetensors have many classes of them
        raise ValueError(f'The {whose} in {folder} cannot be loaded: {error}') from error
    problems = [f'{label} {", ".join(map(_described, sorted(info[key])[:4]))}' + (', ...' if len(info[key]) > 4 else '')
                for key, label in (('missing_keys', 'it lacks'), ('unexpected_keys', 'it has besides'),
                                   ('mismatched_keys', 'of another shape are')) if info.get(key)]
    if problems:
        raise ValueError(f'The weights of the {whose} in {folder} do not fit its config: {"; ".join(problems)}. A '
                         f'{whose} with random layers would give noise; save it again.')
    return network


def _described(key: Any) -> str:
    """A weight's name, or (name, shape in the file, shape by the config)."""
    return key if isinstance(key, str) else f'{key[0]} {tuple(key[1])} instead of {tuple(key[2])}'


def check_folder(folder: str | Path, own: Collection[str], what: str, mark: str | None = None) -> Path:
    """Raise ValueError unless ``folder`` is free, or holds nothing but what an earlier run wrote (``own`` names).

    Args:
        mark: the name of a file that every earlier run has written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f'{what}: {folder} is a file; give a folder.')
    if folder.suffix.lower() in FILES and not folder.exists():
        raise ValueError(f'{what}: {folder} would be a folder of several files; give a name without {folder.suffix}.')
    names = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    others = sorted(names - set(own)) or (sorted(names) if mark not in {None, *names} else [])
    if others:
        raise ValueError(f'{what}: {folder} holds {", ".join(others[:3])}{", ..." if len(others) > 3 else ""}, which '
                         'this command has not written. Nothing was; give a new folder.')
    return folder


@contextlib.contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """Gives an empty folder beside ``folder``; at the end it is flushed to the disk and takes ``folder``'s place.

    After an error, or Ctrl-C, ``folder`` is as it was.
    """
    folder = Path(folder).resolve()  # a link's target, not the link
    temporary, old = temporary_beside(folder), temporary_beside(folder, 'old')
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob('*'):
            if file.is_file():
                with open(file, 'rb') as opened:
                    os.fsync(opened.fileno())
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(temporary, folder)
        except BaseException:
            if old.exists():
                os.replace(old, folder)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
