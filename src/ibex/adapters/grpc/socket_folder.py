"""A temporary directory for a Unix socket, which only this user can enter, and which is removed even after a kill.

A process holds a file lock on its directory for as long as it lives, and the kernel releases the lock when the process
dies. A directory that can be locked was therefore left by a process that was killed, and the next process removes it.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

PREFIX: Final = "ibex-auth-run-"
"""Beginning of the names of the directories. Versions that do not lock their directories use another prefix."""
_MAX_SOCKET_PATH: Final = 90
_FALLBACK: Final = "/dev/shm"  # noqa: S108 - mkdtemp creates a directory with a random name and mode 0700 in it
_ATTEMPTS: Final = 3


class SocketFolder:
    """A directory with mode 0700 and a path short enough for a socket. It exists until ``remove`` is called."""

    def __init__(self) -> None:
        """Create the directory, and remove those that killed processes have left. Raises ``OSError``."""
        parents = [Path(parent) for parent in (_gettempdir(), _FALLBACK) if parent]
        for parent in parents:
            with suppress(OSError):
                _remove_orphans(parent)
                self.path, self._lock = _create(parent)
                if len(os.fsencode(self.path)) <= _MAX_SOCKET_PATH:
                    return
                self.remove()
        tried = " or ".join(str(parent) for parent in parents)
        raise OSError(f"cannot create a Unix socket in {tried}: set TMPDIR to a writable directory with a short path")

    def remove(self) -> None:
        """Remove the directory and the sockets in it. Idempotent."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            _remove(self.path, lock)


def _create(parent: Path) -> tuple[Path, int]:
    """Return a new directory and the descriptor that holds its lock. Raises ``OSError``.

    Another process may take the directory for an orphan, and remove it, before it is locked.
    """
    for _ in range(_ATTEMPTS):
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        lock = _locked(path)
        if lock is not None:
            return path, lock
        with suppress(OSError):  # the other process has removed it, or this file system has no locks
            path.rmdir()
    raise OSError(f"cannot lock a directory in {parent}")


def _remove_orphans(parent: Path) -> None:
    for path in parent.glob(f"{PREFIX}*"):
        lock = _locked(path)
        if lock is not None:
            _remove(path, lock)


def _locked(path: Path) -> int | None:
    """Lock a directory of this user. Return the descriptor that holds the lock, or None if that is impossible."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # it has just been removed, or belongs to another user
        return None
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_uid == os.geteuid() and os.path.samestat(os.fstat(descriptor), path.lstat()):
            return descriptor
    os.close(descriptor)
    return None


def _remove(path: Path, lock: int) -> None:
    """Remove a locked directory, and release its lock."""
    try:
        with suppress(OSError):
            for name in os.listdir(lock):
                os.unlink(name, dir_fd=lock)
            path.rmdir()
    finally:
        os.close(lock)


def _gettempdir() -> str | None:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return None
