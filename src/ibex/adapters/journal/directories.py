"""Whose journal is whose: a process holds a lock on its directory for as long as it lives.

The system lets go of a lock when its process dies, however it does. So a directory that can be locked is nobody's, and
what lies in it waits for somebody to deliver it.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Final

from ibex.domain.record.journal import JournalUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

JOURNAL: Final = "journal.sqlite"
_LOCK: Final = "lock"


class JournalInUseError(JournalUnavailableError):
    """Another process has the journal open; the message says which."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A directory that is this process's until ``release``."""

    path: Path
    lock: int

    def release(self) -> None:
        """Let go of it."""
        os.close(self.lock)


def claim(path: Path) -> Claim:
    """Take hold of one directory, creating it. Raises ``JournalInUseError`` and ``OSError``."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(OSError):  # on a full disk nobody can be told whose it is; it is all the same
            os.truncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode(errors="replace") or "unknown"
        os.close(lock)
        raise JournalInUseError(f"process {holder} has the journal open") from None
    except OSError:
        os.close(lock)
        raise
    return Claim(path, lock)


def claim_any(root: Path) -> Claim:
    """Take hold of the first directory below ``root`` that nobody has, creating one if need be. Raises ``OSError``."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    root.chmod(0o700)
    for number in count():
        try:
            return claim(root / str(number))
        except JournalInUseError:
            continue
    raise AssertionError("counting has no end")
