"""The proxy's operations address (``IBEX_OPS_LISTEN``), for health, readiness and metrics (ADR 0062).

All workers accept connections from one socket. Metrics are in shared memory, so any worker answers for all of them.
The address is served during the drain delay and until the last request of the proxy has ended, so that a shutdown can
be observed. So does a worker that is being replaced, but its readiness does not change.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from ibex.adapters.http_server.connections import ConnectionLimits
from ibex.entrypoints.listening import BACKLOG, address_of, listen
from ibex.entrypoints.proxy_server import DrainingServer, DrainTimes, SharedListener, http_config

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Iterator

    from ibex.entrypoints.settings import Settings

MAX_CONNECTIONS: Final = 32
"""Probes and scrapes are few. Beyond this, connections without a request are closed."""
_TIMES: Final = DrainTimes(delay_s=0.0, finish_s=1.0)
"""The drain delay is over when this server ends."""
_LOG: Final = logging.getLogger("ibex.serve")


def listen_for_ops(settings: Settings, public: socket.socket) -> socket.socket | None:
    """Return a bound socket for ``IBEX_OPS_LISTEN``, None if it is not set. ``public`` is the proxy's own socket.

    Raises ``OSError``, which names the setting, if the address is not local or in use.
    """
    if settings.ops_listen is None:
        return None
    host, _, port = settings.ops_listen.rpartition(":")
    try:
        listener = listen(host.strip("[]"), int(port), "IBEX_OPS_LISTEN")
    except OSError as error:
        raise OSError(f"IBEX_OPS_LISTEN cannot be used: {error.strerror or error}") from None
    if listener.getsockname()[:2] == public.getsockname()[:2]:  # two bound sockets may share it until one listens
        listener.close()
        raise OSError(f"IBEX_OPS_LISTEN cannot be used: {settings.ops_listen} is the proxy's own address")
    return listener


@asynccontextmanager
async def serving_ops(
    app: Any, listener: socket.socket | None, settings: Settings, *, is_shared: bool = False
) -> AsyncIterator[None]:
    """Serve the application on the socket while the block runs. Without a socket, do nothing.

    If other workers share the socket, connections that wait in it at the end are for them.
    """
    if listener is None:
        yield
        return
    limits = ConnectionLimits(
        head_s=settings.header_timeout_s,
        stall_s=settings.client_stall_timeout_s,
        keep_alive_s=settings.keep_alive_s,
        connections=MAX_CONNECTIONS,
    )
    config = http_config(app, limits)
    server = _OpsServer(config, lambda: None, _TIMES, SharedListener() if is_shared else None)
    listener.listen(BACKLOG)
    _LOG.info("health and metrics on %s", address_of(listener))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


class _OpsServer(DrainingServer):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle no signal: the proxy's own server does."""
        yield
