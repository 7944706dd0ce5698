"""The TCP side of auth's gRPC port: a relay that decides which connections reach gRPC at all (ADR 0038).

gRPC's core refuses new connections when it has enough and cannot close one that it has accepted. This front accepts,
closes what proves nothing in time, and passes bytes on to the gRPC server, which listens on a Unix socket in a folder
that only this user may enter. TLS passes through it unchanged. The name of the relay's end of each Unix connection
appears as the peer of its calls; that is how a call is traced back to its connection.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from ibex.adapters.grpc.connections import ConnectionTable, Standing

if TYPE_CHECKING:
    from collections.abc import Sequence

BACKLOG: Final = 512
_FLUSH_S: Final = 5.0
_TURNS_TO_CLOSE: Final = 5
_SERVER: Final = "server"
_MAX_SOCKET_PATH: Final = 90
_FALLBACK: Final = "/dev/shm"  # noqa: S108 - a folder of random name and mode 0700 is made in it


def connection_of(peer: str) -> str:
    """Return the name of the connection that a call came by, from the peer that gRPC states."""
    return peer.rpartition("/")[2]


def bind(address: str) -> Sequence[socket.socket]:
    """Return bound TCP sockets for ``host:port``: one for each address of the host, all with the same port.

    A wildcard takes IPv4 and IPv6 where the system has both. Raises ``OSError`` if an address cannot be bound.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if host == "::" and socket.has_dualstack_ipv6():
        return [socket.create_server((host, int(port)), family=socket.AF_INET6, dualstack_ipv6=True)]
    bound: list[socket.socket] = []
    wanted = int(port)
    try:
        for family, where in _addresses(host, wanted):
            listener = socket.create_server((where, wanted), family=family)
            bound.append(listener)
            wanted = listener.getsockname()[1]
    except OSError:
        for listener in bound:
            listener.close()
        raise
    return bound


def _addresses(host: str, port: int) -> Sequence[tuple[socket.AddressFamily, str]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))


class Front:
    """The connections to one gRPC server. Runs in the event loop that starts it."""

    def __init__(self, room: int, prove_within_s: float) -> None:
        """Take how many connections there may be, and the seconds until a call must have proven its caller."""
        self.table = ConnectionTable(room)
        self._prove_within_s = prove_within_s
        self._numbers = itertools.count(1)
        self._servers: list[asyncio.Server] = []
        self._open: set[_Outer] = set()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def prepare(self) -> str:
        """Make the folder of the Unix socket and return the address that gRPC is to listen on."""
        self._folder = _private_folder()
        return f"unix:{self._folder.name}/{_SERVER}"

    async def start(self, listeners: Sequence[socket.socket]) -> None:
        """Accept connections on these sockets, which it closes in the end."""
        loop = asyncio.get_running_loop()
        for listener in listeners:
            self._servers.append(await loop.create_server(lambda: _Outer(self), sock=listener, backlog=BACKLOG))

    def stop_accepting(self) -> None:
        """Take no new connections. Those that are open stay."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()

    async def close(self) -> None:
        """Close every connection and remove the folder. Doing it again does nothing."""
        self.stop_accepting()
        for outer in list(self._open):
            outer.close_now()
        for _ in range(_TURNS_TO_CLOSE):  # of the event loop: both ends of a connection close one after the other
            await asyncio.sleep(0)
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.cleanup()

    def opened(self, outer: _Outer) -> str | None:
        """Register an accepted connection. Return its name, or None if there is no room for it."""
        name = str(next(self._numbers))
        if not self.table.add(name, outer):
            return None
        self._open.add(outer)
        asyncio.get_running_loop().call_later(self._prove_within_s, self._examine, name, outer)
        return name

    def closed(self, name: str, outer: _Outer) -> None:
        """Forget a connection."""
        self.table.remove(name)
        self._open.discard(outer)

    def dial(self, name: str) -> socket.socket:
        """Return a socket that is connected to the gRPC server, its own end under this name. Raises ``OSError``."""
        folder = self._folder
        if folder is None:
            raise OSError("the front is closed")
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        own = f"{folder.name}/{name}"
        try:
            inner.settimeout(0)
            inner.bind(own)
            inner.connect(f"{folder.name}/{_SERVER}")
        except OSError:
            inner.close()
            raise
        finally:
            with suppress(OSError):
                Path(own).unlink()
        return inner

    def _examine(self, name: str, outer: _Outer) -> None:
        if self.table.standing(name) is Standing.STRANGER:
            outer.close_now()


def _private_folder() -> tempfile.TemporaryDirectory[str]:
    """Make a folder for this user alone. Raises ``OSError`` where nothing is writable."""
    places = [Path(place) for place in (_gettempdir(), _FALLBACK) if place]
    for place in places:
        with suppress(OSError):
            folder = tempfile.TemporaryDirectory(prefix="ibex-auth-", dir=place)
            if len(os.fsencode(folder.name)) <= _MAX_SOCKET_PATH:
                return folder
            folder.cleanup()
    raise OSError("auth needs a temporary folder for a Unix socket; TMPDIR names one, with a short path")


def _gettempdir() -> str | None:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return None


class _End(asyncio.Protocol):
    """One end of a relayed connection."""

    transport: asyncio.Transport | None = None
    other: asyncio.Transport | None = None

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        if self.other is not None:
            self.other.write(data)

    def pause_writing(self) -> None:
        """This end takes no more: read no more from the other."""
        if self.other is not None and not self.other.is_closing():
            self.other.pause_reading()

    def resume_writing(self) -> None:
        """This end takes more again."""
        if self.other is not None and not self.other.is_closing():
            self.other.resume_reading()


class _Inner(_End):
    """The relay's connection to the gRPC server."""

    def __init__(self, outer: _Outer) -> None:
        self._outer = outer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the two ends."""
        self.transport = cast("asyncio.Transport", transport)
        self.other = self._outer.transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's name
        """Close the client's end once it has what was sent."""
        self.other = None
        self._outer.inner_lost()


class _Outer(_End):
    """A client's connection. The gRPC server is not connected to before the client has sent something."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._name: str | None = None
        self._dialing: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take it if there is room."""
        self.transport = cast("asyncio.Transport", transport)
        self._name = self._front.opened(self)
        if self._name is None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Pass it on; connect first if this is the first of it."""
        if self.other is not None:
            self.other.write(data)
        elif self._dialing is None and self._name is not None and self.transport is not None:
            self.transport.pause_reading()
            self._dialing = asyncio.get_running_loop().create_task(self._dial(self._name, data))

    async def _dial(self, name: str, first: bytes) -> None:
        try:
            inner = self._front.dial(name)
        except OSError:
            self.close_now()
            return
        transport, _ = await asyncio.get_running_loop().create_unix_connection(lambda: _Inner(self), sock=inner)
        if self.transport is None or self.transport.is_closing():
            transport.abort()
            return
        self.other = transport
        transport.write(first)
        self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's name
        """Close the server's end."""
        other, self.other = self.other, None
        if other is not None:
            other.abort()
        if self._name is not None:
            self._front.closed(self._name, self)

    def close_now(self) -> None:
        """Close it and discard what it has not sent."""
        if self.transport is not None:
            self.transport.abort()

    def inner_lost(self) -> None:
        """Send what is left, for a moment, and close."""
        self.other = None
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()
            asyncio.get_running_loop().call_later(_FLUSH_S, self.transport.abort)
