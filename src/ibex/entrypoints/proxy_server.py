"""The HTTP server of the proxy: uvicorn with a graceful shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, cast

import uvicorn

from ibex.adapters.http_server.connections import ConnectionLimits
from ibex.adapters.http_server.server_protocol import LimitedHttpProtocol
from ibex.entrypoints.acceptor import Acceptor, ClosableProtocol, ConnectionBalancer
from ibex.entrypoints.process_tuning import collect_rarely, connection_limit, keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ibex.entrypoints.settings import Settings

BACKLOG = 2048
SWITCH_INTERVAL_S = 0.0005
"""The time for which a thread keeps the interpreter lock while another waits. Python's default is ten times that."""
RECORD_TIMEOUT_S = 5.0
"""The time for requests that were cut off at the shutdown to record their exchanges."""


class DrainingServer(uvicorn.Server):
    """A uvicorn server that drains on SIGTERM or SIGINT: it stops accepting, finishes running requests, and returns.

    It calls ``on_drain`` first. A second SIGINT cuts off the running requests. It must run in the main thread.
    """

    def __init__(self, config: uvicorn.Config, on_drain: Callable[[], None], balancer: ConnectionBalancer) -> None:
        super().__init__(config)
        self._on_drain = on_drain
        self._balancer = balancer

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle both signals while serving. Unlike uvicorn, do not raise them again afterwards."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._drain, number)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start accepting connections from listening sockets."""
        await super().startup(sockets=[])
        connections = self.server_state.connections.__len__
        table = cast("type[LimitedHttpProtocol]", self.config.http_protocol_class).table
        acceptors = [
            Acceptor(listener, self._make_protocol, self._balancer, connections, table.close_one if table else None)
            for listener in sockets or []
        ]
        self.servers = cast("list[asyncio.base_events.Server]", acceptors)  # has the methods that uvicorn calls

    async def on_tick(self, counter: int) -> bool:
        """Publish the number of connections for the other workers. Uvicorn calls this every 0.1 s."""
        self._balancer.publish(len(self.server_state.connections))
        return await super().on_tick(counter)

    def _make_protocol(self) -> ClosableProtocol:
        make = cast("Callable[..., ClosableProtocol]", self.config.http_protocol_class)
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def _drain(self, number: int) -> None:
        if self.should_exit and number == signal.SIGINT:
            self.force_exit = True
        self._on_drain()
        self.should_exit = True


def listen(host: str, port: int, setting: str = "IBEX_PORT") -> socket.socket:
    """Return a bound TCP socket. Port 0 binds any free port.

    Raises ``OSError`` if the address is in use or not local. ``setting`` is the setting to change, for the message.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.set_inheritable(False)
    except OSError as error:
        listener.close()
        in_use = error.errno == errno.EADDRINUSE
        hint = f". Choose another port with {setting} (0 for any free port)" if in_use else ""
        raise OSError(error.errno, f"{host}:{port}: {error.strerror}{hint}") from None
    return listener


def address_of(listener: socket.socket) -> str:
    """Return ``http://host:port`` of a bound socket, with loopback in place of a wildcard address."""
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def connection_limits(settings: Settings) -> ConnectionLimits:
    """Return the limits of client connections that the settings, and the limit of open files, allow."""
    return ConnectionLimits(
        head_s=settings.header_timeout_s,
        stall_s=settings.client_stall_timeout_s,
        keep_alive_s=settings.keep_alive_s,
        connections=connection_limit(settings),
    )


async def serve_http(
    app: Any,
    listener: socket.socket,
    settings: Settings,
    on_drain: Callable[[], None],
    balancer: ConnectionBalancer | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then wait for running requests, at most for the shutdown timeout.

    ``balancer`` is None if the process does not share the socket.
    """
    # Exempt the long-lived objects from garbage collection, so that no request waits while they are scanned.
    gc.collect()
    gc.freeze()
    collect_rarely()
    # The event loop waits up to this long for the interpreter lock when the journal's or an encoding thread has it.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    keep_freed_memory()
    config = uvicorn.Config(
        app,
        http=LimitedHttpProtocol.limited(connection_limits(settings)),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout_s)),
    )
    server = DrainingServer(config, on_drain, balancer or ConnectionBalancer())
    listener.listen(BACKLOG)
    await server.serve(sockets=[listener])
    if server.server_state.tasks:  # they are cut off, but their exchanges are not recorded yet
        await asyncio.wait(list(server.server_state.tasks), timeout=RECORD_TIMEOUT_S)
