"""What is under way, noted in a file of slots: one is written when a request reaches the provider, wiped at its end.

A note outlives the process, since what is written is the operating system's from then on; it need not outlive the
machine. One write of a page that is in memory takes some microseconds and so is made in the event loop. Length and
CRC-32 in front of each note tell one that was cut short, which then is none.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

SLOT_BYTES: Final = 2_048
MAX_SLOTS: Final = 65_536
_HEADER: Final = struct.Struct("<II")
_WIPED: Final = bytes(_HEADER.size)


class InFlightLog:
    """The file, open. Which slot holds whose note is kept in memory."""

    def __init__(self, path: Path) -> None:
        """Open the file, or create it. Raises ``OSError``."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._slots: dict[int, int] = {}  # by exchanges' ids as numbers, which are cheaper to look up
        self._free: list[int] = []
        self._count = 0

    def found(self) -> list[tuple[int, bytes]]:
        """Return the notes of who had the file before, each with its slot. To be called once, before all else."""
        notes = []
        self._count = -(-os.fstat(self._file).st_size // SLOT_BYTES)
        for slot in range(self._count):
            note = self._read(slot)
            if note is None:
                self._free.append(slot)
            else:
                notes.append((slot, note))
        return notes

    def claim(self, exchange_id: UUID, slot: int) -> None:
        """Say whose note a slot holds that was found."""
        self._slots[exchange_id.int] = slot

    def free(self, slot: int) -> None:
        """Wipe a slot that was found."""
        try:  # noqa: SIM105 - a context manager costs as much as the writing
            os.pwrite(self._file, _WIPED, slot * SLOT_BYTES)
        except OSError:
            pass
        self._free.append(slot)

    def note(self, exchange_id: UUID, body: bytes) -> bool:
        """Write a note; False if it cannot be kept, for its size, for want of room, or for the disk's sake."""
        if len(body) > SLOT_BYTES - _HEADER.size:
            return False
        if self._free:
            slot = self._free.pop()
        elif self._count < MAX_SLOTS:
            slot, self._count = self._count, self._count + 1
        else:
            return False
        try:
            os.pwrite(self._file, _HEADER.pack(len(body), zlib.crc32(body)) + body, slot * SLOT_BYTES)
        except OSError:
            self._free.append(slot)
            return False
        self._slots[exchange_id.int] = slot
        return True

    def wipe(self, exchange_id: UUID) -> None:
        """Remove a note, if there is one."""
        slot = self._slots.pop(exchange_id.int, None)
        if slot is not None:
            self.free(slot)

    def close(self) -> None:
        """Close the file; its notes stay."""
        os.close(self._file)

    def _read(self, slot: int) -> bytes | None:
        data = os.pread(self._file, SLOT_BYTES, slot * SLOT_BYTES)
        if len(data) < _HEADER.size:
            return None
        length, checksum = _HEADER.unpack_from(data)
        body = data[_HEADER.size : _HEADER.size + length]
        return body if length and len(body) == length and zlib.crc32(body) == checksum else None
