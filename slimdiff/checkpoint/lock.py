"""One process at a time in a folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

try:
    import fcntl
except ImportError:  # Windows: the process in the file is looked up instead
    fcntl = None  # type: ignore[assignment]

NAME = '.slimdiff.lock'
#: seconds between two signs of life of a holder, and without one after which a holder on another host counts as gone
BEAT, STALE = 20.0, 120.0
_descriptors: set[int] = set()


class FolderInUseError(ValueError):
    """Another process works in the folder; the message has its host and process id."""


def is_alive(pid: int) -> bool:
    """Whether this host has such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True


class FolderLock:
    """An exclusive right to write into a folder, held from :meth:`acquire` to :meth:`release` or the process's end.

    The file ``.slimdiff.lock`` has host, process id and start of its holder. The lock on it (``flock``) is the
    system's, so a killed process leaves none. Where a file system has no locks, or locks of one host only, the holder
    in the file counts: one on this host while its process is alive, one on another host while it touches the file.

    Args:
        folder: made if it is not there.
        what: is done in it, for the message.
    """

    def __init__(self, folder: str | Path, what: str) -> None:
        self.path, self.what = Path(folder) / NAME, what
        self._descriptor: int | None = None
        self._stop = threading.Event()

    def acquire(self) -> None:
        """Take the lock at once, or raise FolderInUseError."""
        if self.path.parent.exists() and not self.path.parent.is_dir():
            raise ValueError(f'{self.path.parent} is a file; give a folder.')
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while self._descriptor is None:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if self._take(descriptor):
                    self._descriptor = descriptor
            finally:
                if self._descriptor is None:
                    os.close(descriptor)
        _descriptors.add(self._descriptor)
        self._stop.clear()
        threading.Thread(target=self._beat, daemon=True).start()

    def _take(self, descriptor: int) -> bool:
        """Whether the file of ``descriptor`` is locked now; False if its holder has just removed it."""
        locked = fcntl is not None
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            self._refuse(_read(descriptor))
        except OSError:  # a file system without locks
            locked = False
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                holder = _read(descriptor)
                here = holder.get('host') == socket.gethostname()
                age = time.time() - os.fstat(descriptor).st_mtime
                if holder and (not locked and is_alive(holder['pid']) if here else age < STALE):
                    self._refuse(holder)
                text = json.dumps(dict(host=socket.gethostname(), pid=os.getpid(), what=self.what,
                                       since=datetime.datetime.now().astimezone().isoformat(timespec='seconds')))
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, text.encode(), 0)
                return True
        return False

    def _refuse(self, holder: dict[str, Any]) -> NoReturn:
        who = 'another process'
        if holder:
            who = f'process {holder["pid"]} on {holder["host"]}, since {holder["since"]} ({holder["what"]})'
        gone = '' if holder.get('host') in (None, socket.gethostname()) else (
            f' If that process was killed, try again in {STALE / 60:g} minutes.')
        raise FolderInUseError(f'{self.path.parent} is in use by {who}. Nothing was changed. Wait for it to end or '
                               f'stop it, or choose another folder.{gone}')

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._descriptor is None:
            return
        self._stop.set()
        descriptor, self._descriptor = self._descriptor, None
        with contextlib.suppress(OSError):  # the folder may be gone
            if os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                self.path.unlink()
        _descriptors.discard(descriptor)
        os.close(descriptor)

    def __enter__(self) -> FolderLock:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.release()


def _read(descriptor: int) -> dict[str, Any]:
    """The holder; empty if none is written there."""
    with contextlib.suppress(ValueError):
        holder = json.loads(os.pread(descriptor, 4096, 0))
        if isinstance(holder, dict) and isinstance(holder.get('pid'), int) and {'host', 'since', 'what'} <= set(holder):
            return holder
    return {}


def _forget() -> None:
    """In a forked child, such as a worker of a DataLoader: it may outlive its parent, whose lock it must not keep."""
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_forget)
