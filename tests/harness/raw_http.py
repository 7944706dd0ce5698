"""An HTTP client that sends exactly the bytes it is given, and reads what comes as RFC 9112 says, strictly."""

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
    """One whole response. Names of headers are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.headers["x-request-id"]

    @property
    def error(self) -> dict[str, Any]:
        """The envelope, which must be one: of this request, and without a body of its own kind beside it."""
        assert self.headers["content-type"] == "application/json"
        (error,) = json.loads(self.body).values()
        assert error["request_id"] == self.request_id
        return dict(error)

    @property
    def outcome(self) -> tuple[int, str]:
        """The status and the envelope's code."""
        return self.status, self.error["code"]

    @property
    def last_event(self) -> dict[str, Any]:
        """What the last event of a stream that has failed says: the envelope's members."""
        assert (self.status, self.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        last = self.body.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
        (error,) = json.loads(last.removeprefix(b"data: ")).values()
        assert error["request_id"] == self.request_id
        return dict(error)

    def before_last_event(self) -> bytes:
        """Return what a stream held before its last event."""
        return self.body[: self.body.removesuffix(b"\n\n").rfind(b"\n\n") + 2]


class RawClient:
    """One connection."""

    def __init__(self, address: str, receive_buffer: int | None = None) -> None:
        """Take ``http://host:port``, and how many bytes the system may keep for a client that does not read."""
        at = urlsplit(address)
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(WAIT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a piece is sent when a test sends it
        try:
            self.socket.connect((at.hostname, at.port))
        except OSError:
            self.socket.close()
            raise
        self._file = self.socket.makefile("rb")

    @classmethod
    @contextmanager
    def connected(cls, address: str, receive_buffer: int | None = None) -> Iterator[RawClient]:
        """Connect, and close at the end."""
        client = cls(address, receive_buffer)
        try:
            yield client
        finally:
            client.close()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def close(self) -> None:
        """Go."""
        self._file.close()
        self.socket.close()

    def read_line(self) -> bytes:
        """Return the next line with its end; empty at the connection's end."""
        return self._file.readline()

    def read(self, size: int) -> bytes:
        """Return so many bytes, fewer at the connection's end."""
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
        """Return the next response; the connection must not end within it, unless that is its end."""
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
        """Give out the chunks of a body up to its end."""
        while size := int(self.read_line(), 16):
            chunk = self.read(size)
            assert self.read_line() == b"\r\n"
            yield chunk
        assert self.read_line() == b"\r\n"

    def is_at_end(self) -> bool:
        """Wait for what comes; tell whether it is the connection's end, in whichever way."""
        try:
            return not self._file.read(1)
        except ConnectionError:
            return True
