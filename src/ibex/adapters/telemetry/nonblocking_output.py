"""Output that never waits for its reader (ADR 0043).

A pipe that nobody reads is full after 64 KiB; the write that comes then stops the whole process, event loop and signal
handlers included. What cannot be written at once waits in memory, and what finds no room there is dropped and counted.
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
    """Lines on their way to a descriptor, which stays open and keeps its flags: other processes may share it."""

    def __init__(self, descriptor: int) -> None:
        """Take a descriptor that is open for writing."""
        self._own: socket.socket | int | None = None
        self._send = self._sender(descriptor)
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self.dropped = 0

    def write(self, *lines: bytes) -> bool:
        """Write whole lines; return whether all that waited is written. No line that is written is torn."""
        for piece in pieces(lines):
            if self._waiting_bytes + len(piece) > MAX_BUFFERED_BYTES:
                self.dropped += piece.count(b"\n")
            else:
                self._waiting.append(piece)
                self._waiting_bytes += len(piece)
        return self.write_waiting()

    def write_waiting(self) -> bool:
        """Write what the reader has room for; return whether that is everything."""
        while self._waiting:
            piece = self._waiting.popleft()
            self._waiting_bytes -= len(piece)
            try:
                written = self._send(piece)
            except BlockingIOError:
                written = 0
            except OSError:  # no reader any more, or no room on the disk
                self.dropped += piece.count(b"\n")
                continue
            if written < len(piece):
                self._waiting.appendleft(piece[written:])
                self._waiting_bytes += len(piece) - written
                return False
        return True

    def close(self) -> None:
        """Drop what waits, and close what was opened for writing."""
        own, self._own = self._own, None
        if isinstance(own, socket.socket):
            own.close()
        elif own is not None:
            os.close(own)

    def _sender(self, descriptor: int) -> Callable[[bytes], int]:
        """Return what writes a piece, or a part of it, at once. Raises ``BlockingIOError`` where there is no room."""
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(mode):
            self._own = peer = socket.socket(fileno=os.dup(descriptor))
            return lambda piece: peer.send(piece, socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0))
        if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
            return lambda piece: os.write(descriptor, piece)
        # The flag O_NONBLOCK belongs to what all holders of the descriptor share: the shell, workers, another program.
        # A pipe or terminal that is opened again has flags of its own.
        with suppress(OSError):
            self._own = again = os.open(
                f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            )
            return lambda piece: os.write(again, piece)
        return lambda piece: _written_if_ready(descriptor, piece)


def _written_if_ready(descriptor: int, piece: bytes) -> int:
    """Write to a pipe of another user, which cannot be opened again. One that is ready has room for ``PIPE_BUF``."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError
    return os.write(descriptor, piece[: select.PIPE_BUF])


def pieces(lines: tuple[bytes, ...] | list[bytes]) -> Iterator[bytes]:
    """Yield the lines joined, as many as a pipe that several processes share takes at once: none is torn then."""
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
