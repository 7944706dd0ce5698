"""A connection to a provider without a peer: a test feeds its input and acts as its owner."""

from __future__ import annotations

import asyncio
from typing import Any

from ibex.adapters.http_client.connection import READ_BYTES, Http1Connection


class FakeTransport(asyncio.Transport):
    """A transport without a peer, which records what is written."""

    def __init__(self) -> None:
        self.options: dict[int, int] = {}
        super().__init__({"socket": self})
        self.written = b""
        self.reading = True
        self.aborted = False
        self.unsent = 0

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """Record a socket option: the transport is its own socket."""
        del level
        self.options[option] = value

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Record written data."""
        self.written += bytes(data)

    def writelines(self, list_of_data: Any) -> None:
        """Record several pieces of written data."""
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        """Return the size that the test sets."""
        return self.unsent

    def is_closing(self) -> bool:
        """Return whether the transport was aborted."""
        return self.aborted

    def abort(self) -> None:
        """Record the abort."""
        self.aborted = True

    def pause_reading(self) -> None:
        """Record that reading is paused."""
        self.reading = False

    def resume_reading(self) -> None:
        """Record that reading is resumed."""
        self.reading = True


class Unwired:
    """A connection without a peer, and its owner."""

    def __init__(self) -> None:
        self.made: list[Http1Connection] = []
        self.kept: list[Http1Connection] = []
        self.gone: list[Http1Connection] = []
        self.transport = FakeTransport()
        self.connection = Http1Connection(self, memoryview(bytearray(READ_BYTES)))
        self.connection.connection_made(self.transport)

    def connected(self, connection: Http1Connection) -> None:
        """Record the connection."""
        self.made.append(connection)

    def released(self, connection: Http1Connection) -> None:
        """Keep the connection if it is open, as the pool does."""
        if connection.is_open:
            self.kept.append(connection)
        else:
            connection.close()

    def lost(self, connection: Http1Connection) -> None:
        """Record the loss."""
        self.gone.append(connection)

    def feed(self, data: bytes) -> None:
        """Feed bytes to the connection, in reads of at most the buffer's size."""
        for start in range(0, len(data), READ_BYTES):
            piece = data[start : start + READ_BYTES]
            self.connection.get_buffer(-1)[: len(piece)] = piece
            self.connection.buffer_updated(len(piece))
