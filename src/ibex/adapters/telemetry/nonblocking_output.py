"""Output that never blocks on its reader (ADR 0043).

A pipe without a reader is full after 64 KiB; the next write blocks the whole process, event loop and signal handlers
included. Lines that cannot be written at once are buffered in memory; beyond a limit they are dropped and counted.
"""

from __future__ import annotations

import os
import select
import socket
import stat
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_BUFFERED_BYTES: Final = 1 << 20


class NonblockingOutput:
    """A line buffer for a descriptor. Leaves the descriptor open and its flags unchanged: processes may share it."""

    def __init__(self, descriptor: int) -> None:
        """Write to a descriptor, which must be open for writing."""
        self._own: socket.socket | int | None = None
        self._send = self._sender(descriptor)
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self.dropped = 0

    def write(self, *lines: bytes) -> bool:
        """Write whole lines. Return whether the buffer is empty afterwards."""
        for piece in pieces(lines):
            if self._waiting_bytes + len(piece) > MAX_BUFFERED_BYTES:
                self.dropped += piece.count(b"\n")
            else:
                self._waiting.append(piece)
                self._waiting_bytes += len(piece)
        return self.write_waiting()

    def write_waiting(self) -> bool:
        """Write as much of the buffer as the reader accepts. Return whether the buffer is empty afterwards."""
        while self._waiting:
            piece = self._waiting.popleft()
            self._waiting_bytes -= len(piece)
            try:
                written = self._send(piece)
            except BlockingIOError:
                written = 0
            except OSError:  # the reader has closed its end, or the disk is full
                self.dropped += piece.count(b"\n")
                continue
            if written < len(piece):
                self._waiting.appendleft(piece[written:])
                self._waiting_bytes += len(piece) - written
                return False
        return True

    def close(self) -> None:
        """Discard the buffer, and close the descriptors that this object opened."""
        own, self._own = self._own, None
        if isinstance(own, socket.socket):
            own.close()
        elif own is not None:
            os.close(own)

    def _sender(self, descriptor: int) -> Callable[[bytes], int]:
        """Return a function that writes as much of a piece as it can, or raises ``BlockingIOError``."""
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(mode):
            self._own = peer = socket.socket(fileno=os.dup(descriptor))
            return lambda piece: peer.send(piece, socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0))
        if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
            return lambda piece: os.write(descriptor, piece)
        # O_NONBLOCK belongs to the open file description, which the shell, workers and other programs share. Opening a
        # pipe or terminal again creates a description with its own flags.
        with suppress(OSError):
            self._own = again = os.open(
                f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            )
            return lambda piece: os.write(again, piece)
        return lambda piece: _written_if_ready(descriptor, piece)


def _written_if_ready(descriptor: int, piece: bytes) -> int:
    """Write to a pipe of another user, which cannot be opened again. If it is writable, ``PIPE_BUF`` bytes fit."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError
    return os.write(descriptor, piece[: select.PIPE_BUF])


def pieces(lines: tuple[bytes, ...] | list[bytes]) -> Iterator[bytes]:
    """Yield the lines joined into pieces of at most ``PIPE_BUF`` bytes, unless one line is longer.

    Several processes can write such pieces to one pipe without mixing their lines.
    """
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if size + len(line) > select.PIPE_BUF and piece:
            yield b"".join(piece)
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    if piece:
        yield b"".join(piece)
