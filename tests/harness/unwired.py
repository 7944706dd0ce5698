"""A connection to a provider with nobody at its other end: fed by hand, its owner taking in_flight."""

from __future__ import annotations

import asyncio
from typing import Any

from ibex.adapters.http_client.connection import READ_BYTES, Http1Connection


class FakeTransport(asyncio.Transport):
    """Records what is written; nothing is on its other end."""

    def __init__(self) -> None:
        self.options: dict[int, int] = {}
        super().__init__({"socket": self})
        self.written = b""
        self.reading = True
        self.aborted = False
        self.unsent = 0

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """Stand for the socket as well."""
        del level
        self.options[option] = value

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes."""
        self.written += bytes(data)

    def writelines(self, list_of_data: Any) -> None:
        """Take several."""
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        """Say what is still to be sent."""
        return self.unsent

    def is_closing(self) -> bool:
        """Say whether it was aborted."""
        return self.aborted

    def abort(self) -> None:
        """Drop everything."""
        self.aborted = True

    def pause_reading(self) -> None:
        """Stop reading."""
        self.reading = False

    def resume_reading(self) -> None:
        """Go on reading."""
        self.reading = True


class Unwired:
    """A connection with nobody at its other end, and its owner."""

    def __init__(self) -> None:
        self.made: list[Http1Connection] = []
        self.kept: list[Http1Connection] = []
        self.gone: list[Http1Connection] = []
        self.transport = FakeTransport()
        self.connection = Http1Connection(self, memoryview(bytearray(READ_BYTES)))
        self.connection.connection_made(self.transport)

    def connected(self, connection: Http1Connection) -> None:
        """Take note."""
        self.made.append(connection)

    def released(self, connection: Http1Connection) -> None:
        """Keep it if it is open, as the pool does."""
        if connection.is_open:
            self.kept.append(connection)
        else:
            connection.close()

    def lost(self, connection: Http1Connection) -> None:
        """Take note."""
        self.gone.append(connection)

    def feed(self, data: bytes) -> None:
        """Let bytes come, in reads as large as the buffer."""
        for start in range(0, len(data), READ_BYTES):
            piece = data[start : start + READ_BYTES]
            self.connection.get_buffer(-1)[: len(piece)] = piece
            self.connection.buffer_updated(len(piece))
