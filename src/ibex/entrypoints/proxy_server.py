"""The HTTP server under the proxy: uvicorn, with signals that drain instead of cutting off."""

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
from ibex.entrypoints.acceptor import Acceptor, ConnectionBalancer, Served
from ibex.entrypoints.process_tuning import collect_rarely, connection_limit, keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ibex.entrypoints.settings import Settings

BACKLOG = 2048
SWITCH_S = 0.0005
"""How long a thread may go on when another wants the interpreter; Python's own is ten times that."""
LAST_WORDS_S = 5.0
"""What requests that were cut off at the end may take to be recorded."""


class DrainingServer(uvicorn.Server):
    """On SIGTERM or SIGINT: says so first, takes no new connection, lets what runs finish, and returns.

    A second SIGINT ends the waiting. Must run in the main thread's event loop.
    """

    def __init__(self, config: uvicorn.Config, on_drain: Callable[[], None], share: ConnectionBalancer) -> None:
        super().__init__(config)
        self._on_drain = on_drain
        self._share = share

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle both signals while serving; unlike uvicorn's own, do not raise them again afterwards."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._drain, number)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept, from sockets that listen."""
        await super().startup(sockets=[])
        connections = self.server_state.connections.__len__
        table = cast("type[LimitedHttpProtocol]", self.config.http_protocol_class).table
        acceptors = [
            Acceptor(listener, self._make_protocol, self._share, connections, table.close_one if table else None)
            for listener in sockets or []
        ]
        self.servers = cast("list[asyncio.base_events.Server]", acceptors)  # as much of one as is used

    async def on_tick(self, counter: int) -> bool:
        """Tell the other processes how many connections there are, as some have ended; called every 0.1 s."""
        self._share.tell(len(self.server_state.connections))
        return await super().on_tick(counter)

    def _make_protocol(self) -> Served:
        make = cast("Callable[..., Served]", self.config.http_protocol_class)
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def _drain(self, number: int) -> None:
        if self.should_exit and number == signal.SIGINT:
            self.force_exit = True
        self._on_drain()
        self.should_exit = True


def listen(host: str, port: int, setting: str = "IBEX_PORT") -> socket.socket:
    """Return a bound TCP socket; port 0 takes any free one. Raises ``OSError`` if the address is taken or not ours.

    ``setting`` is the setting that the port comes from. The error names it.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.set_inheritable(False)
    except OSError as error:
        listener.close()
        otherwise = f"; {setting} takes another port, 0 for any free one" if error.errno == errno.EADDRINUSE else ""
        raise OSError(error.errno, f"{host}:{port}: {error.strerror}{otherwise}") from None
    return listener


def address_of(listener: socket.socket) -> str:
    """Return ``http://host:port`` of a bound socket; a wildcard address is shown as loopback."""
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
    share: ConnectionBalancer | None = None,
) -> None:
    """Serve until a signal comes; return once running requests have finished or the time to shut down is over.

    ``share`` is for a process that is one of several on the socket.
    """
    # What is there now stays: it is not to be looked through again and again while requests wait.
    gc.collect()
    gc.freeze()
    collect_rarely()
    # The journal's thread and those that encode batches take turns with the event loop, which waits that long for each.
    sys.setswitchinterval(SWITCH_S)
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
    server = DrainingServer(config, on_drain, share or ConnectionBalancer())
    listener.listen(BACKLOG)
    await server.serve(sockets=[listener])
    if server.server_state.tasks:  # cut off by now, but what they leave is not on record yet
        await asyncio.wait(list(server.server_state.tasks), timeout=LAST_WORDS_S)
