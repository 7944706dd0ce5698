"""A TCP relay in front of auth's gRPC server that limits connections and closes unauthenticated ones (ADR 0038).

gRPC's core can refuse new connections at a limit, but it cannot close one that it has accepted. The relay accepts the
TCP connections and closes those on which no caller authenticates in time. It forwards bytes to the gRPC server, which
listens on a Unix socket in a directory that only this user can enter. TLS passes through unchanged. The relay binds its
end of each Unix connection to a name, which gRPC reports as the peer of each call. This maps a call to its connection.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from ibex.adapters.grpc.connections import GrpcConnections, PeerRole
from ibex.adapters.grpc.socket_folder import SocketFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

BACKLOG: Final = 512
_FLUSH_S: Final = 5.0
_STALLED_S: Final = 1.0
"""How long a connection beyond its limit of unauthenticated calls is kept without being served."""
_ITERATIONS_TO_CLOSE: Final = 5
_SERVER: Final = "server"


def connection_of(peer: str) -> str:
    """Return the name of a call's connection, from the peer that gRPC reports."""
    return peer.rpartition("/")[2]


def bind(address: str) -> Sequence[socket.socket]:
    """Return bound TCP sockets for ``host:port``: one for each address of the host, all with the same port.

    A wildcard address binds IPv4 and IPv6 if the system has both. Raises ``OSError`` if an address cannot be bound.
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


class Relay:
    """Relays client connections to one gRPC server, in the event loop that starts it."""

    def __init__(self, max_connections: int, authentication_timeout_s: float) -> None:
        """Set the maximum number of connections, and the time that each has to authenticate, in seconds."""
        self.table = GrpcConnections(max_connections)
        self._authentication_timeout_s = authentication_timeout_s
        self._numbers = itertools.count(1)
        self._servers: list[asyncio.Server] = []
        self._open: set[_ClientSide] = set()
        self._folder: SocketFolder | None = None

    def prepare(self) -> str:
        """Create the directory of the Unix socket and return the address for gRPC to listen on. Raises ``OSError``."""
        self._folder = SocketFolder()
        return f"unix:{self._folder.path}/{_SERVER}"

    async def start(self, listeners: Sequence[socket.socket]) -> None:
        """Accept connections on these sockets. The relay takes ownership and closes them."""
        loop = asyncio.get_running_loop()
        for listener in listeners:
            self._servers.append(await loop.create_server(lambda: _ClientSide(self), sock=listener, backlog=BACKLOG))

    def stop_accepting(self) -> None:
        """Stop accepting connections. Open connections stay."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()

    async def close(self) -> None:
        """Close all connections and remove the directory. Idempotent."""
        self.stop_accepting()
        for client in list(self._open):
            client.close_now()
        for _ in range(_ITERATIONS_TO_CLOSE):  # of the event loop: the two ends of a connection close one by one
            await asyncio.sleep(0)
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.remove()

    def opened(self, client: _ClientSide) -> str | None:
        """Register an accepted connection. Return its name, or None if the table is full."""
        name = str(next(self._numbers))
        if not self.table.add(name, client):
            return None
        self._open.add(client)
        asyncio.get_running_loop().call_later(
            self._authentication_timeout_s, self._close_unless_authenticated, name, client
        )
        return name

    def closed(self, name: str, client: _ClientSide) -> None:
        """Remove a closed connection."""
        self.table.remove(name)
        self._open.discard(client)

    def dial(self, name: str) -> socket.socket:
        """Return a socket connected to the gRPC server, bound to this name. Raises ``OSError``."""
        folder = self._folder
        if folder is None:
            raise OSError("the relay is closed")
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        own = f"{folder.path}/{name}"
        try:
            inner.settimeout(0)
            inner.bind(own)
            inner.connect(f"{folder.path}/{_SERVER}")
        except OSError:
            inner.close()
            raise
        finally:
            with suppress(OSError):
                Path(own).unlink()
        return inner

    def _close_unless_authenticated(self, name: str, client: _ClientSide) -> None:
        if self.table.role(name) is PeerRole.UNAUTHENTICATED:
            client.close_now()


class _End(asyncio.Protocol):
    """One end of a relayed connection."""

    transport: asyncio.Transport | None = None
    other: asyncio.Transport | None = None

    def data_received(self, data: bytes) -> None:
        """Forward the data to the other end."""
        if self.other is not None:
            self.other.write(data)

    def pause_writing(self) -> None:
        """Stop reading from the other end, because this end's write buffer is full (backpressure)."""
        if self.other is not None and not self.other.is_closing():
            self.other.pause_reading()

    def resume_writing(self) -> None:
        """Read from the other end again."""
        if self.other is not None and not self.other.is_closing():
            self.other.resume_reading()


class _ServerSide(_End):
    """The relay's connection to the gRPC server."""

    def __init__(self, client: _ClientSide) -> None:
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect the two ends."""
        self.transport = cast("asyncio.Transport", transport)
        self.other = self._client.transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's name
        """Close the client's end once its write buffer is flushed."""
        self.other = None
        self._client.server_lost()


class _ClientSide(_End):
    """A client's connection. The relay connects to the gRPC server when the first bytes arrive."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._name: str | None = None
        self._dialing: asyncio.Task[None] | None = None
        self._is_stalled = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection. Abort it if the table is full."""
        self.transport = cast("asyncio.Transport", transport)
        self._name = self._relay.opened(self)
        if self._name is None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Forward the data. Connect to the server first if this is the first data."""
        if self.other is not None:
            self.other.write(data)
        elif self._dialing is None and self._name is not None and self.transport is not None:
            self.transport.pause_reading()
            self._dialing = asyncio.get_running_loop().create_task(self._dial(self._name, data))

    async def _dial(self, name: str, first: bytes) -> None:
        try:
            inner = self._relay.dial(name)
        except OSError:
            self.close_now()
            return
        transport, _ = await asyncio.get_running_loop().create_unix_connection(lambda: _ServerSide(self), sock=inner)
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
            self._relay.closed(self._name, self)

    def close_now(self) -> None:
        """Abort the connection and discard unsent data."""
        if self.transport is not None:
            self.transport.abort()

    def close_later(self) -> None:
        """Disconnect from the server, stop reading, and abort the connection after ``_STALLED_S``."""
        self._is_stalled = True
        other, self.other = self.other, None
        if other is not None:
            other.abort()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(_STALLED_S, self.transport.abort)

    def server_lost(self) -> None:
        """Flush the write buffer for at most ``_FLUSH_S``, then close."""
        self.other = None
        if self._is_stalled:
            return
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()
            asyncio.get_running_loop().call_later(_FLUSH_S, self.transport.abort)
