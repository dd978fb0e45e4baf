"""Checkpoint files: written whole or not at all, read without running code, refused with a reason.

A checkpoint is a dict of plain data (:mod:`slimdiff.checkpoint.plain_data`): ``meta``, ``state_dict`` and, to resume,
``optimizer``, ``param_schedulers``, ``message_hub`` and what the hooks add (``ema``, ``log``, ``report``).
"""

from __future__ import annotations

import errno
import io
import os
import pickletools
import re
import shutil
import socket
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from slimdiff.checkpoint.lock import is_alive
from slimdiff.checkpoint.plain_data import encode

FORMAT = 'slimdiff-checkpoint'
FORMAT_VERSION = 2
#: places of a checkpoint that are read -> what must stand there, if anything does
LAYOUT = {'state_dict': Mapping, 'ema': Mapping, 'ema.state_dict': Mapping, 'meta.config': Mapping,
          'meta.config.model': Mapping, 'meta.dataset_meta': Mapping, 'meta.dataset_meta.classes': (list, tuple)}
POINTER = 'last_checkpoint'
_NAME = re.compile(r'iter_(\d+)\.pth')
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
#: a temporary file or folder: its process and host (files of slimdiff 0.1 name no host)
_TEMPORARY = re.compile(r'\..*\.(\d+)(?:@(.+))?\.(?:tmp|old)')


class CheckpointError(ValueError):
    """A checkpoint that cannot be used (the message says which and why), or could not be written."""


class CheckpointWriteError(CheckpointError):
    """A checkpoint that could not be written. No file was harmed."""


# ---- writing ------------------------------------------------------------------------------------------------------


def checkpoint_name(iteration: int) -> str:
    return f'iter_{iteration}.pth'


def temporary_beside(path: Path, ending: str = 'tmp') -> Path:
    """Where this process writes what will be ``path``."""
    return path.with_name(f'.{path.name}.{os.getpid()}@{socket.gethostname()}.{ending}')


def atomic_write(path: str | Path, write: Any, flush: bool = True) -> None:
    """Call ``write(file)`` on a temporary file beside ``path``, flush it to the disk, rename it to ``path``.

    Whenever the process or the machine dies, ``path`` is as it was or is complete.

    Args:
        flush: False saves the time of waiting for the disk: then that holds for the process, not for the machine.

    Raises:
        OSError: as the system says, with the name of the file; the temporary file is gone and ``path`` as it was.
    """
    path = Path(path).resolve()  # a link's target, not the link
    temporary = temporary_beside(path)
    try:
        with open(temporary, 'wb') as file:
            write(file)
            file.flush()
            if path.exists():
                shutil.copymode(path, temporary)
            if flush:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # A refused write, say on a full disk, does not say of which file; a refused opening names the temporary one.
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(temporary)) \
                and error.filename2 is None:
            error.filename = str(path)
        raise
    if not flush:
        return
    # The rename is on the disk only when the directory is.
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def remove_temporary_files(directory: str | Path) -> list[str]:
    """Remove what killed writers left, not what living ones are writing; return the names."""
    found = [file for file in sorted(Path(directory).glob('.*')) if _is_left_over(file)]
    for file in found:
        shutil.rmtree(file, ignore_errors=True) if file.is_dir() else file.unlink(missing_ok=True)
    return [file.name for file in found]


def _is_left_over(file: Path) -> bool:
    match = _TEMPORARY.fullmatch(file.name)
    if match is None or not file.exists():
        return False
    pid, host = int(match[1]), match[2]
    if host is None or (host == socket.gethostname() and (pid == os.getpid() or not is_alive(pid))):
        return True
    # A process elsewhere can't be asked, and one of this number may be another by now.
    return time.time() - file.stat().st_mtime > (86_400 if host == socket.gethostname() else 600)


def save_checkpoint(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Write ``checkpoint`` atomically, then point ``last_checkpoint`` beside it to it (by file name).

    Raises:
        CheckpointWriteError: a full disk or another refusal of the system; older checkpoints are untouched.
        TypeError: something in it that is not plain data.
    """
    path = Path(path)
    data = encode(dict(checkpoint))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, lambda file: torch.save(data, file))
        # Only after the checkpoint is safe; loading does without the pointer (newest_checkpoint).
        atomic_write(path.with_name(POINTER), lambda file: file.write(path.name.encode()))
    except (OSError, RuntimeError) as error:
        # torch's zip writer turns the OSError of a file object into a RuntimeError in some versions.
        cause = error if isinstance(error, OSError) else error.__context__
        full = isinstance(cause, OSError) and cause.errno in DISK_FULL
        reason = 'the disk is full' if full else str(error).splitlines()[0]
        raise CheckpointWriteError(f'{path} could not be written: {reason}. Older checkpoints are untouched. '
                                   'Free some space, or choose another --work-dir.') from error


# ---- reading ------------------------------------------------------------------------------------------------------


def check_file(path: Path, instead: str = 'Use an older checkpoint.') -> None:
    """Refuse what is not an intact zip archive, before torch looks at it.

    Args:
        instead: what to do about a damaged file.
    """
    if path.is_dir():
        raise CheckpointError(f'{path} is a folder; a file is needed here, such as the iter_N.pth of a training. '
                              '(Folders of diffusers are for `slimdiff sample`, and teacher.checkpoint of a config.)')
    if not path.is_file():
        raise CheckpointError(f'{path}: there is no such checkpoint file.')
    with open(path, 'rb') as file:
        magic = file.read(4)
    if not magic:
        raise CheckpointError(f'{path} is empty (0 bytes): its writing was cut off. {instead}')
    if magic[:2] != b'PK':
        return
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # checks every CRC: torch's reader does not
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise CheckpointError(f'{path} is damaged (truncated): {error}. {instead}') from error
    if broken is not None:
        raise CheckpointError(f'{path} is damaged: the checksum of {broken} is wrong. {instead}')


def pickled_objects(path: str | Path) -> list[str]:
    """Names of what unpickling a file would import, beside torch's tensors; the pickle is read, never executed."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            data = b''.join(archive.read(name) for name in archive.namelist() if name.endswith('data.pkl'))
    else:
        data = Path(path).read_bytes()
    stream, names = io.BytesIO(data), []
    try:
        while stream.tell() < len(data):  # torch's old format is several pickles, then raw data
            strings: list[str] = []
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == 'GLOBAL':
                    names.append(argument.replace(' ', '.'))
                elif opcode.name == 'STACK_GLOBAL':
                    names.append('.'.join(strings[-2:]))
                elif isinstance(argument, str):
                    strings.append(argument)
    except Exception:  # the raw data, or no pickle at all
        pass
    return [name for name in dict.fromkeys(names) if not name.startswith(('torch.', 'collections.', '_codecs.'))]


def load_checkpoint(path: str | Path, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a slimdiff checkpoint, with ``weights_only=True``: nothing in it is ever executed.

    Raises:
        CheckpointError: missing, truncated, holding pickled code, or not written by slimdiff; the message says which.
    """
    path = Path(path)
    check_file(path)
    hint = ' If it is of latent-diffusion or Stable Diffusion: slimdiff convert.' if path.suffix == '.ckpt' else ''
    try:
        data = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        found = pickled_objects(path)
        if found:
            raise CheckpointError(
                f"{path} holds pickled objects ({', '.join(found[:3])}), not only tensors and plain data. Reading them "
                'could run code of whoever made the file, so it was refused and nothing was run. If you trust its '
                f'source, convert its weights to safetensors there.{hint}') from None
        raise CheckpointError(f'{path} is not a checkpoint that slimdiff can read: neither a file of torch.save nor a '
                              'pickle, or damaged.') from error
    meta = data.get('meta') if isinstance(data, dict) else None
    if not isinstance(meta, dict) or meta.get('format') != FORMAT:
        keys = f' Its keys: {", ".join(map(str, list(data)[:6]))}.' if isinstance(data, dict) else ''
        raise CheckpointError(f'{path} was not written by slimdiff (its meta.format is not {FORMAT!r}), so what its '
                              f'weights belong to is unknown.{keys}{hint}')
    if not isinstance(meta.get('format_version'), int):
        raise CheckpointError(f'{path} is damaged: it lacks the version of its format.')
    if meta['format_version'] < FORMAT_VERSION:
        raise CheckpointError(f'{path} was written by slimdiff 0.1 (checkpoint format {meta["format_version"]}), which '
                              f'named the weights otherwise; this slimdiff reads format {FORMAT_VERSION}. Use it with '
                              'slimdiff 0.1, or train again.')
    if meta['format_version'] > FORMAT_VERSION:
        raise CheckpointError(f'{path} has checkpoint format {meta["format_version"]}; this slimdiff reads up to '
                              f'{FORMAT_VERSION}. It was written by slimdiff {meta.get("slimdiff_version")}: upgrade.')
    _check_layout(data, path)
    return data


def _check_layout(data: Mapping[str, Any], path: Path) -> None:
    needed = {'state_dict', 'ema.state_dict'} if 'ema' in data else {'state_dict'}
    for place, kinds in LAYOUT.items():
        node: Any = data
        for key in place.split('.'):
            node = node.get(key) if isinstance(node, Mapping) else None
        if not isinstance(node, kinds) and (node is not None or place in needed):
            raise CheckpointError(f'{path} is damaged: its {place} is {type(node).__name__}.')


def list_checkpoints(directory: str | Path, above: int = -1) -> list[Path]:
    """The checkpoints of a work dir by iteration, newest first; those of iterations ``above`` one only."""
    found = [(int(match.group(1)), file) for file in Path(directory).glob('iter_*.pth')
             if (match := _NAME.fullmatch(file.name))]
    return [file for iteration, file in sorted(found, reverse=True) if iteration > above]


def newest_checkpoint(directory: str | Path) -> tuple[Path | None, dict[str, Any] | None, list[str]]:
    """The newest checkpoint that can be read.

    It goes by the files, not by the ``last_checkpoint`` pointer, which a kill between two renames leaves one behind
    and which may name a file that was deleted.

    Returns:
        Its path and content (None, None if there is none), and why newer ones were passed over.
    """
    complaints: list[str] = []
    pointer = Path(directory) / POINTER
    if pointer.is_file():
        target = pointer.with_name(Path(pointer.read_text(encoding='utf-8', errors='replace').strip() or '?').name)
        if not target.is_file():
            complaints.append(f'{pointer} names {target.name}, which does not exist')
    for path in list_checkpoints(directory):
        try:
            return path, load_checkpoint(path), complaints
        except CheckpointError as error:
            complaints.append(str(error))
    return None, None, complaints
