"""An HTTP client that sends exactly the given bytes, and parses responses strictly by RFC 9112."""

from __future__ import annotations

import json
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_S = 30.0
"""How long a test waits for a byte; only a failing one waits so long."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One whole response. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def request_id(self) -> str:
        """The request id."""
        return self.headers["x-request-id"]

    @property
    def error(self) -> dict[str, Any]:
        """The error envelope. Asserts that it is valid, belongs to this request, and has no other members."""
        assert self.headers["content-type"] == "application/json"
        (error,) = json.loads(self.body).values()
        assert error["request_id"] == self.request_id
        return dict(error)

    @property
    def outcome(self) -> tuple[int, str]:
        """The status, and the code of the envelope."""
        return self.status, self.error["code"]

    @property
    def last_event(self) -> dict[str, Any]:
        """The members of the envelope in the last event of a failed stream."""
        assert (self.status, self.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        last = self.body.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
        (error,) = json.loads(last.removeprefix(b"data: ")).values()
        assert error["request_id"] == self.request_id
        return dict(error)


class RawClient:
    """One connection."""

    def __init__(self, address: str, receive_buffer: int | None = None) -> None:
        """Take ``http://host:port``, and the size of the receive buffer for a client that does not read."""
        at = urlsplit(address)
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(WAIT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each piece is sent at once
        try:
            self.socket.connect((at.hostname, at.port))
        except OSError:
            self.socket.close()
            raise
        self._file = self.socket.makefile("rb")

    @classmethod
    @contextmanager
    def connected(cls, address: str, receive_buffer: int | None = None) -> Iterator[RawClient]:
        """Connect, and close at the end of the block."""
        client = cls(address, receive_buffer)
        try:
            yield client
        finally:
            client.close()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self.socket.close()

    def read_line(self) -> bytes:
        """Return the next line with its line end; empty at the end of the connection."""
        return self._file.readline()

    def read(self, size: int) -> bytes:
        """Return this many bytes, fewer at the end of the connection."""
        return self._file.read(size)

    def read_head(self) -> tuple[int, dict[str, str]]:
        """Return the status and headers of the next response."""
        status_line = self.read_line()
        assert status_line.startswith(b"HTTP/1.1 "), status_line
        headers: dict[str, str] = {}
        while line := self.read_line().removesuffix(b"\r\n"):
            name, value = line.decode("latin-1").split(": ", 1)
            assert name.lower() not in headers, f"{name} came twice"
            headers[name.lower()] = value
        return int(status_line.split()[1]), headers

    def response(self) -> Seen:
        """Return the next response. The connection must not end within it, unless this delimits the body."""
        status, headers = self.read_head()
        if headers.get("transfer-encoding") == "chunked":
            assert "content-length" not in headers
            return Seen(status, headers, b"".join(self.chunks()))
        if "content-length" not in headers:
            return Seen(status, headers, self._file.read())
        body = self.read(int(headers["content-length"]))
        assert len(body) == int(headers["content-length"]), "the body was cut"
        return Seen(status, headers, body)

    def chunks(self) -> Iterator[bytes]:
        """Yield the chunks of a body up to its end."""
        while size := int(self.read_line(), 16):
            chunk = self.read(size)
            assert self.read_line() == b"\r\n"
            yield chunk
        assert self.read_line() == b"\r\n"

    def is_at_end(self) -> bool:
        """Wait for data or the end of the connection; tell whether it is the end, clean or not."""
        try:
            return not self._file.read(1)
        except ConnectionError:
            return True
