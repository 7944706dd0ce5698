"""The in-flight log: a file of fixed-size slots with the exchanges that have not finished.

An entry is written when a request reaches the provider. After the exchange has ended, the entry is cleared, or another
one takes its slot. Entries survive the death of the process, because the page cache belongs to the kernel; they need
not survive a power loss. Writing to a cached page takes a few microseconds, so the event loop does it directly. A
length and a CRC-32 precede each entry, so that an incomplete entry is detected and ignored.
"""

from __future__ import annotations

import os
import struct
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

SLOT_BYTES: Final = 2_048
MAX_SLOTS: Final = 65_536
_HEADER: Final = struct.Struct("<II")
_CLEARED: Final = bytes(_HEADER.size)


class InFlightLog:
    """An open in-flight log. The map from exchange to slot is kept in memory."""

    def __init__(self, path: Path) -> None:
        """Open the file, or create it. Raises ``OSError``."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._slots: dict[int, int] = {}  # keyed by exchange id as an integer, which is cheaper to look up
        self._free: list[int] = []
        self._stale: set[int] = set()
        """The free slots that still contain an entry."""
        self._count = 0

    def read_entries(self) -> list[tuple[int, bytes]]:
        """Return the entries of a former process, each with its slot. Call this once, before any other method."""
        entries = []
        self._count = -(-os.fstat(self._file).st_size // SLOT_BYTES)
        for slot in range(self._count):
            entry = self._read(slot)
            if entry is None:
                self._free.append(slot)
            else:
                entries.append((slot, entry))
        return entries

    def adopt(self, exchange_id: UUID, slot: int) -> None:
        """Set the exchange of a slot that ``read_entries`` returned, so that ``remove`` finds it."""
        self._slots[exchange_id.int] = slot

    def clear(self, slot: int) -> None:
        """Clear a slot, so that it can be reused."""
        self._clear(slot)
        self._free.append(slot)

    def clear_released(self) -> None:
        """Clear the entries of all released exchanges that no other entry has replaced."""
        for slot in self._stale:
            self._clear(slot)
        self._stale.clear()

    def write(self, exchange_id: UUID, body: bytes) -> bool:
        """Write an entry. Return False if it is too large, if no slot is free, or if the disk fails."""
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
        self._stale.discard(slot)
        self._slots[exchange_id.int] = slot
        return True

    def remove(self, exchange_id: UUID) -> None:
        """Remove the entry of an exchange, if there is one."""
        slot = self._slots.pop(exchange_id.int, None)
        if slot is not None:
            self.clear(slot)

    def release(self, exchange_id: UUID) -> None:
        """Release the slot of an exchange that is committed. Its entry stays until the next one replaces it.

        That saves a system call for each request. An entry whose exchange is in the journal is not unfinished, so
        ``clear_released`` must only be called before such an exchange is deleted from the journal.
        """
        slot = self._slots.pop(exchange_id.int, None)
        if slot is not None:
            self._stale.add(slot)
            self._free.append(slot)

    def close(self) -> None:
        """Close the file. Its entries remain."""
        os.close(self._file)

    def _clear(self, slot: int) -> None:
        with suppress(OSError):
            os.pwrite(self._file, _CLEARED, slot * SLOT_BYTES)

    def _read(self, slot: int) -> bytes | None:
        data = os.pread(self._file, SLOT_BYTES, slot * SLOT_BYTES)
        if len(data) < _HEADER.size:
            return None
        length, checksum = _HEADER.unpack_from(data)
        body = data[_HEADER.size : _HEADER.size + length]
        return body if length and len(body) == length and zlib.crc32(body) == checksum else None


def entries_of(path: Path) -> list[bytes]:
    """Return the entries of a log that another process may have open, without changing it. Raises ``OSError``."""
    if not path.exists():
        return []
    log = InFlightLog(path)
    try:
        return [body for _, body in log.read_entries()]
    finally:
        log.close()
