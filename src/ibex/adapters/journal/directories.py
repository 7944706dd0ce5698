"""Ownership of journal directories: a process holds a file lock on its directory for as long as it lives.

The kernel releases the lock when the process dies, even by SIGKILL. A directory that can be locked is therefore
orphaned, and another process can take it over to deliver its exchanges.
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
    """Another process has the journal open. The message contains its process id."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A directory that this process owns until it calls ``release``."""

    path: Path
    lock: int

    def release(self) -> None:
        """Release the lock, so that another process can claim the directory."""
        os.close(self.lock)


def claim(path: Path) -> Claim:
    """Lock a directory, and create it if necessary. Raises ``JournalInUseError`` or ``OSError``."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(OSError):  # on a full disk the process id is missing, but the lock holds
            os.truncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode(errors="replace") or "unknown"
        os.close(lock)
        raise JournalInUseError(f"the journal in {path} is open in another process (pid {holder})") from None
    except OSError:
        os.close(lock)
        raise
    return Claim(path, lock)


def claim_any(root: Path) -> Claim:
    """Lock the first unlocked directory below ``root``, and create one if all are locked. Raises ``OSError``."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    root.chmod(0o700)
    for number in count():
        try:
            return claim(root / str(number))
        except JournalInUseError:
            continue
    raise AssertionError("unreachable: count() never ends")
