"""The directories of journals: which one to use, whether it is safe, and which process owns it.

A process holds a file lock on its journal's directory for as long as it lives. The kernel releases the lock when the
process dies, even by SIGKILL. A directory that can be locked is therefore orphaned, and another process can take it
over to deliver its exchanges.

Journals are only in directories that belong to this user, with mode 0700 (ADR 0062). If the configured directory
belongs to someone else, or has the sticky bit, others may write to it: it is then left as it is, and the journals are
in a directory of this user's own below it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Final

from ibex.adapters.journal.formats import newer_format
from ibex.domain.record.journal import JournalUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JOURNAL: Final = "journal.sqlite"
IN_FLIGHT_LOG: Final = "under-way"
LOCK: Final = "lock"
OWN_PREFIX: Final = "ibex-"
"""Beginning of the name of a user's own directory below a shared one; the user id follows."""
_OTHERS: Final = 0o077
_LOG: Final = logging.getLogger("ibex.journal")


class JournalInUseError(JournalUnavailableError):
    """Another process has the journal open. The message contains its process id."""


class JournalDirectoryError(JournalUnavailableError):
    """A directory is not safe for a journal, or cannot be used. The message says why."""


class NewerJournalError(JournalUnavailableError):
    """A newer version of IBEX wrote the journal. It is left as it is."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A directory that this process owns until it calls ``release``."""

    path: Path
    lock: int

    def release(self) -> None:
        """Release the lock, so that another process can claim the directory."""
        os.close(self.lock)


def journals_root(configured: Path) -> Path:
    """Return the directory of this user's journals: the configured one, or this user's own below it.

    It need not exist. Nothing is created. Raises ``JournalDirectoryError`` if the configured path is not a directory,
    and ``OSError`` if it cannot be examined.
    """
    try:
        found = configured.stat()
    except FileNotFoundError:
        return configured
    if not stat.S_ISDIR(found.st_mode):
        raise JournalDirectoryError(f"{configured} is not a directory")
    if found.st_uid == os.geteuid() and not found.st_mode & stat.S_ISVTX:
        return configured
    return configured / f"{OWN_PREFIX}{os.geteuid()}"


def checked_root(configured: Path) -> Path:
    """Return ``journals_root`` if a process of this user can have its journal there. Creates nothing.

    Starting a process and ``ibex doctor`` both use this. Raises ``JournalDirectoryError``, and ``OSError`` if the disk
    fails.
    """
    try:
        return _checked_root(configured)
    except (PermissionError, NotADirectoryError) as error:
        raise JournalDirectoryError(f"{configured} cannot be used ({error.strerror})") from None


def _checked_root(configured: Path) -> Path:
    root = journals_root(configured)
    existing = next(path for path in (root, *root.absolute().parents) if path.exists() or path.is_symlink())
    if existing == root:
        _make_private(root, follow=root == configured)
    elif not existing.is_dir():
        raise JournalDirectoryError(f"{existing} is not a directory")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise JournalDirectoryError(f"{existing} cannot be written to by user {os.geteuid()}")
    return root


def journal_directories(root: Path) -> Iterator[Path]:
    """Yield the directories of journals in a directory that ``journals_root`` returned, and that this user owns."""
    for file in sorted(root.glob(f"*/{JOURNAL}")):
        if _is_own_directory(file.parent):
            yield file.parent


def claim(path: Path) -> Claim:
    """Lock a directory, and create it if necessary.

    Raises ``JournalInUseError``, ``JournalDirectoryError``, ``NewerJournalError`` or ``OSError``.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _make_private(path)
    lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(OSError):  # on a full disk the process id is missing, but the lock holds
            os.truncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
        _refuse_newer(path)
        _make_files_private(path)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode(errors="replace") or "unknown"
        os.close(lock)
        raise JournalInUseError(f"the journal in {path} is open in another process (pid {holder})") from None
    except (OSError, NewerJournalError):
        os.close(lock)
        raise
    return Claim(path, lock)


def claim_any(configured: Path) -> Claim:
    """Lock the first usable directory below ``journals_root``, and create one if none is.

    A directory is not usable if another process has locked it, if a newer version of IBEX wrote its journal, or if it
    does not belong to this user. Raises ``JournalDirectoryError`` or ``OSError``.
    """
    try:
        root = checked_root(configured)
    except JournalDirectoryError as wrong:
        raise JournalDirectoryError(f"{wrong}. Set IBEX_JOURNAL_DIR to a directory that IBEX can write to.") from None
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    _make_private(root, follow=root == configured)
    for number in count():
        try:
            return claim(root / str(number))
        except JournalInUseError:
            continue
        except (JournalDirectoryError, NewerJournalError) as unusable:
            _LOG.warning("%s; another directory is used", unusable)
    raise AssertionError("unreachable: count() never ends")


def _refuse_newer(path: Path) -> None:
    newer = newer_format(path / JOURNAL, path / IN_FLIGHT_LOG)
    if newer is not None:
        raise NewerJournalError(
            f"the journal in {path} is kept for a newer version of IBEX: {newer}."
            " Run `ibex journal drain` of that version"
        )


def _is_own_directory(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _make_private(path: Path, *, follow: bool = False) -> None:
    """Withdraw the rights of others to a directory, which must belong to this user.

    Kubernetes grants them to the group of the volume at each mount. ``follow`` allows a symbolic link, which is right
    for a path that the operator configures. Raises ``JournalDirectoryError``.
    """
    found = path.stat() if follow else path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise JournalDirectoryError(f"{path} is not a directory")
    if found.st_uid != os.geteuid():
        raise JournalDirectoryError(f"{path} belongs to user {found.st_uid}, and this process runs as {os.geteuid()}")
    if stat.S_IMODE(found.st_mode) != 0o700:  # noqa: PLR2004 - all rights for the owner, none for others
        with suppress(OSError):
            path.chmod(0o700)
        if path.stat().st_mode & _OTHERS:
            raise JournalDirectoryError(f"the rights of other users to {path} cannot be withdrawn")


def _make_files_private(directory: Path) -> None:
    """Withdraw the rights of others to the files of a journal. The directory's own mode already protects them."""
    for file in directory.iterdir():
        found = file.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_mode & _OTHERS:
            with suppress(OSError):
                file.chmod(0o600)
