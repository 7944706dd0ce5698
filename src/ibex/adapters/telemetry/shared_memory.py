"""Shared memory for metrics: one segment for each worker, with integer slots and an index of series (ADR 0028).

A segment has one writer, the event loop's thread of its worker. Any process that maps it can read it at any time. A
worker that replaces a dead one attaches to the same segment and continues its counters.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_HEAD: Final = 64
_INDEX: Final = (1 << 19) - _HEAD
_SLOTS: Final = 1 << 20
SEGMENT_BYTES: Final = _HEAD + _INDEX + _SLOTS
_WORD: Final = 8
_INDEX_END, _SLOTS_END, _PID, _HEARTBEAT, _CONNECTIONS = range(5)


def create_shared_memory(segments: int) -> int:
    """Return a file descriptor of memory for this many segments. Child processes can inherit it.

    On Linux this does not need /dev/shm. If the kernel refuses (a seccomp filter, for example), and on other systems,
    it is a temporary file, whose writing back could stall the event loop. Raises ``OSError``.
    """
    size = segments * SEGMENT_BYTES
    if hasattr(os, "memfd_create"):
        with suppress(OSError):
            return _sized(os.memfd_create("ibex-metrics"), os.ftruncate, size)
    try:
        with tempfile.TemporaryFile() as file:
            return _sized(os.dup(file.fileno()), _allocate, size)
    except OSError as error:
        raise OSError(
            f"The metrics of {segments} workers need {size:,} bytes of anonymous memory or of temporary files"
            f" ({error.strerror}). Make room in {_temporary_directory()}, or start one worker."
        ) from None


def _allocate(file: int, size: int) -> None:
    """Reserve the space now. A worker that writes to a page for which there is no space would be killed (SIGBUS)."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.ftruncate(file, size)


def _sized(file: int, set_size: Callable[[int, int], None], size: int) -> int:
    try:
        set_size(file, size)
    except OSError:
        os.close(file)
        raise
    return file


def _temporary_directory() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return "the folder that TMPDIR names"


class Series(msgspec.Struct, frozen=True, array_like=True):
    """An entry of the index: a metric, its label values, its first slot and its number of slots."""

    name: str
    labels: tuple[str, ...]
    first: int
    size: int


_READER: Final = msgspec.json.Decoder(Series)


class SharedMemorySegment:
    """The segment of one worker. A new segment is all zeros, which means that it is empty."""

    def __init__(self, memory: mmap.mmap, number: int = 0) -> None:
        """Map the segment with this number, counted from 0."""
        view = memoryview(memory)[number * SEGMENT_BYTES : (number + 1) * SEGMENT_BYTES]
        self._head = view[:_HEAD].cast("q")
        self._index = view[_HEAD : _HEAD + _INDEX]
        self._slots = view[_HEAD + _INDEX :].cast("q")
        self._series: list[Series] = []
        self._read_to = 0

    @classmethod
    def private(cls) -> SharedMemorySegment:
        """Return a segment that is not shared."""
        return cls(mmap.mmap(-1, SEGMENT_BYTES))

    @classmethod
    def all_of(cls, memory: int) -> Sequence[SharedMemorySegment]:
        """Return all segments of the memory that ``create_shared_memory`` returned."""
        mapped = mmap.mmap(memory, 0)
        return [cls(mapped, number) for number in range(len(mapped) // SEGMENT_BYTES)]

    def attach(self) -> None:
        """Make this process the writer of the segment."""
        self._head[_PID] = os.getpid()
        self._head[_HEARTBEAT] = 0
        self._head[_CONNECTIONS] = 0

    def release(self) -> None:
        """Leave the segment without a writer, after the last one has ended. Its numbers stay."""
        self._head[_PID] = 0

    @property
    def pid(self) -> int:
        """The process id of the current or last writer, 0 if no process has attached, or after ``release``."""
        return self._head[_PID]

    @property
    def heartbeat_ns(self) -> int:
        """The time of the worker's last heartbeat, by the machine's monotonic clock; 0 before the first."""
        return self._head[_HEARTBEAT]

    @heartbeat_ns.setter
    def heartbeat_ns(self, now_ns: int) -> None:
        self._head[_HEARTBEAT] = now_ns

    @property
    def connections(self) -> int:
        """The number of client connections that the worker last published."""
        return self._head[_CONNECTIONS]

    @connections.setter
    def connections(self, number: int) -> None:
        self._head[_CONNECTIONS] = number

    def series(self) -> Sequence[Series]:
        """Return the entries of the index."""
        written = self._head[_INDEX_END]
        while self._read_to < written:
            end = self._read_to + _WORD + int.from_bytes(self._index[self._read_to : self._read_to + _WORD], "little")
            self._series.append(_READER.decode(self._index[self._read_to + _WORD : end]))
            self._read_to = end
        return self._series

    def numbers(self, series: Series) -> Sequence[int]:
        """Return the current numbers of a series."""
        return self._slots[series.first : series.first + series.size].tolist()

    def slots_of(self, name: str, labels: tuple[str, ...], size: int) -> memoryview[int]:
        """Return the slots of a series, with the numbers of a former writer, or new slots with zeros.

        If the segment is full, the slots are private and the series is not exported. Routes and enumerations cannot
        fill a segment.
        """
        for known in self.series():
            if (known.name, known.labels, known.size) == (name, labels, size):
                return self._slots[known.first : known.first + size]
        first, at = self._head[_SLOTS_END], self._head[_INDEX_END]
        entry = msgspec.json.encode(Series(name, labels, first, size))
        end = at + _WORD + len(entry)
        if first + size > len(self._slots) or end > len(self._index):
            return memoryview(bytearray(size * _WORD)).cast("q")
        self._index[at : at + _WORD] = len(entry).to_bytes(_WORD, "little")
        self._index[at + _WORD : end] = entry
        self._head[_SLOTS_END] = first + size
        self._head[_INDEX_END] = end  # last, so that a concurrent reader never finds an incomplete entry
        return self._slots[first : first + size]
