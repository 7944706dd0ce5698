"""Memory for the metrics of one process: whole numbers in slots, and an index that says whose they are (ADR 0028).

One process writes a region, in its event loop's thread alone; any process that has it mapped may read it, at any time.
A process that takes the place of one that died goes on counting where that one stopped.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEAD: Final = 64
_INDEX: Final = (1 << 19) - _HEAD
_SLOTS: Final = 1 << 20
REGION_BYTES: Final = _HEAD + _INDEX + _SLOTS
_WORD: Final = 8
_INDEXED, _TAKEN, _PID, _TURNED, _CONNECTIONS = range(5)


def shared_memory(regions: int) -> int:
    """Return a file descriptor of memory for so many regions, to be handed to the processes that share them."""
    if hasattr(os, "memfd_create"):
        memory = os.memfd_create("ibex-metrics")
    else:  # a file that has no name: not on Linux, where writing it out could stall whoever counts
        with tempfile.TemporaryFile() as file:
            memory = os.dup(file.fileno())
    os.ftruncate(memory, regions * REGION_BYTES)
    return memory


class Series(msgspec.Struct, frozen=True, array_like=True):
    """One entry of the index: a metric, its labels' values, and where its numbers are."""

    name: str
    labels: tuple[str, ...]
    first: int
    size: int


_READER: Final = msgspec.json.Decoder(Series)


class SharedMemorySegment:
    """A region. What nothing was written to yet is empty: all zeros."""

    def __init__(self, memory: mmap.mmap, number: int = 0) -> None:
        """Take the ``number``-th region of the memory."""
        view = memoryview(memory)[number * REGION_BYTES : (number + 1) * REGION_BYTES]
        self._head = view[:_HEAD].cast("q")
        self._index = view[_HEAD : _HEAD + _INDEX]
        self._slots = view[_HEAD + _INDEX :].cast("q")
        self._series: list[Series] = []
        self._read_to = 0

    @classmethod
    def private(cls) -> SharedMemorySegment:
        """Return a region that no other process sees."""
        return cls(mmap.mmap(-1, REGION_BYTES))

    @classmethod
    def all_of(cls, memory: int) -> Sequence[SharedMemorySegment]:
        """Return the regions behind the file descriptor that ``shared_memory`` returned."""
        mapped = mmap.mmap(memory, 0)
        return [cls(mapped, number) for number in range(len(mapped) // REGION_BYTES)]

    def attach(self) -> None:
        """Be the process that writes here from now on."""
        self._head[_PID] = os.getpid()
        self._head[_TURNED] = 0
        self._head[_CONNECTIONS] = 0

    @property
    def pid(self) -> int:
        """The process that writes here or did last; 0 if none ever did."""
        return self._head[_PID]

    @property
    def heartbeat_ns(self) -> int:
        """When its event loop was last seen to turn, by the machine's monotonic clock; 0 if it never was."""
        return self._head[_TURNED]

    @heartbeat_ns.setter
    def heartbeat_ns(self, now_ns: int) -> None:
        self._head[_TURNED] = now_ns

    @property
    def connections(self) -> int:
        """How many connections of clients the process has, as it said last."""
        return self._head[_CONNECTIONS]

    @connections.setter
    def connections(self, number: int) -> None:
        self._head[_CONNECTIONS] = number

    def series(self) -> Sequence[Series]:
        """Return what is in the index by now."""
        written = self._head[_INDEXED]
        while self._read_to < written:
            end = self._read_to + _WORD + int.from_bytes(self._index[self._read_to : self._read_to + _WORD], "little")
            self._series.append(_READER.decode(self._index[self._read_to + _WORD : end]))
            self._read_to = end
        return self._series

    def numbers(self, series: Series) -> Sequence[int]:
        """Return the numbers as they are now."""
        return self._slots[series.first : series.first + series.size].tolist()

    def slots_of(self, name: str, labels: tuple[str, ...], size: int) -> memoryview[int]:
        """Return the slots of a metric, with what was counted in them, or new ones with zeros.

        If there is no room, which takes more series than routes and enumerations can make, they are seen by nobody.
        """
        for known in self.series():
            if (known.name, known.labels, known.size) == (name, labels, size):
                return self._slots[known.first : known.first + size]
        first, at = self._head[_TAKEN], self._head[_INDEXED]
        entry = msgspec.json.encode(Series(name, labels, first, size))
        end = at + _WORD + len(entry)
        if first + size > len(self._slots) or end > len(self._index):
            return memoryview(bytearray(size * _WORD)).cast("q")
        self._index[at : at + _WORD] = len(entry).to_bytes(_WORD, "little")
        self._index[at + _WORD : end] = entry
        self._head[_TAKEN] = first + size
        self._head[_INDEXED] = end  # last: whoever reads it finds the entry complete
        return self._slots[first : first + size]
