"""The dead-letter file: exchanges that a sink rejects for good, one JSON object a line, for an operator to inspect.

An exchange contains no secret and no message text, so this file contains none. Only its owner can read it all the same.
``taken_dead_letters`` takes all lines to deliver them again. A line leaves the disk only once the caller has finished
with all of them, so a crash loses none.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ibex.adapters.journal.encoding import UnreadableExchangeError, decode
from ibex.domain.record.exchange import Exchange
from ibex.domain.record.journal import Sink

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

FILE: Final = "dead-letters.jsonl"
TAKEN: Final = "dead-letters.replaying"
MAX_BYTES: Final = 64 * 1024 * 1024


class ReplayInProgressError(OSError):
    """Another process is replaying the dead letters of this journal."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One line. ``sink`` or ``exchange`` is None if the line does not contain it: it cannot be delivered again."""

    sink: Sink | None
    exchange: Exchange | None
    line: bytes


def append_dead_letter(directory: Path, sink: Sink, reason: str, letter: dict[str, Any]) -> None:
    """Append one line to the file.

    Drop it if the file would exceed ``MAX_BYTES`` or cannot be written; the caller counts every dead letter.
    """
    try:
        line = msgspec.json.encode({"sink": sink.value, "reason": reason, **letter}) + b"\n"
    except ValueError:  # a lone surrogate, which UTF-8 cannot encode
        line = msgspec.json.encode({"sink": sink.value, "reason": reason, "id": str(letter.get("id"))}) + b"\n"
    with suppress(OSError):
        _append(directory, line, MAX_BYTES)


@contextmanager
def taken_dead_letters(directory: Path) -> Iterator[Sequence[DeadLetter]]:
    """Take the letters of a journal, whose process may go on to write more of them.

    The block puts back, with ``put_back``, those that it could not deliver. If it raises or the process dies, the next
    call returns the same letters again, and the call after it the later ones. Raises ``ReplayInProgressError`` or
    ``OSError``.
    """
    with _locked(directory):
        if (directory / FILE).exists() and not (directory / TAKEN).exists():
            (directory / FILE).rename(directory / TAKEN)
        yield [_parse(line) for line in _complete_lines(directory / TAKEN)]
        (directory / TAKEN).unlink(missing_ok=True)


def put_back(directory: Path, letters: Sequence[DeadLetter]) -> None:
    """Append letters to the file again. Raises ``OSError``."""
    if letters:
        _append(directory, b"".join(letter.line for letter in letters), None)


def count_dead_letters(directory: Path) -> int:
    """Return the number of letters, with those that an interrupted replay has taken. Raises ``OSError``."""
    count = 0
    for name in (FILE, TAKEN):
        with suppress(FileNotFoundError), (directory / name).open("rb") as file:
            count += sum(1 for _ in file)
    return count


def _append(directory: Path, data: bytes, max_bytes: int | None) -> None:
    while True:
        file = os.open(directory / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # a replay renames the file
            if not _is_at(file, directory / FILE):
                continue
            if max_bytes is None or os.fstat(file).st_size + len(data) <= max_bytes:
                os.write(file, data)
            return
        finally:
            os.close(file)


def _is_at(file: int, path: Path) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    own = os.fstat(file)
    return (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a replay."""
    replay = os.open(directory / f"{TAKEN}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(replay, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ReplayInProgressError(
                f"another process replays the dead letters in {directory}; run the command again when it has ended"
            ) from None
        yield
    finally:
        os.close(replay)


def _complete_lines(path: Path) -> Sequence[bytes]:
    """Return the lines of a file, once the process that writes to it, if there is one, has finished its line."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return [line.rstrip(b"\n") + b"\n" for line in file]
    except FileNotFoundError:
        return ()


def _parse(line: bytes) -> DeadLetter:
    try:
        found = msgspec.json.decode(line)
        return DeadLetter(Sink(found["sink"]), _exchange(found), line)
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError):  # damaged, for example because the disk was full
        return DeadLetter(None, None, line)


def _exchange(found: dict[str, Any]) -> Exchange | None:
    try:
        if "exchange" in found:
            return msgspec.convert(found["exchange"], Exchange)
        if "body" in found:
            return decode(bytes.fromhex(found["body"]))
    except (msgspec.ValidationError, UnreadableExchangeError, ValueError):
        pass
    return None
