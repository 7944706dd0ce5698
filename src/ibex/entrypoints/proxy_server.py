"""The HTTP server of the proxy: uvicorn with a graceful shutdown (ADR 0060)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

import uvicorn

from ibex.adapters.http_server.connections import ConnectionLimits
from ibex.adapters.http_server.server_protocol import LimitedHttpProtocol
from ibex.entrypoints.acceptor import Acceptor, ClosableProtocol, ConnectionBalancer
from ibex.entrypoints.listening import BACKLOG, let_handshakes_end
from ibex.entrypoints.process_tuning import collect_rarely, connection_limit, keep_freed_memory

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

    from ibex.adapters.http_server.connections import ConnectionTable
    from ibex.entrypoints.settings import Settings

SWITCH_INTERVAL_S = 0.0005
"""The time for which a thread keeps the interpreter lock while another waits. Python's default is ten times that."""
RECORD_TIMEOUT_S = 5.0
"""The time for requests that were cut off at the shutdown to record their exchanges."""
SAME_S: Final = 1.0
"""A SIGTERM within this time of another signal is the same request to end: systemd and the supervisor both send one."""
ALONE_S: Final = 1.0
"""The time beyond the drain delay that a worker accepts connections if its supervisor does not close the socket."""
SILENT_S: Final = 1.0
"""How long a connection that was accepted before the end of the drain delay can wait for its first byte."""
_POLL_S: Final = 0.05
_LOG: Final = logging.getLogger("ibex.serve")


def _ignore() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class SharedListener:
    """The listening socket of a worker, which it shares with the other workers and the supervisor.

    ``started`` is called once the worker accepts connections.
    """

    balancer: ConnectionBalancer = field(default_factory=ConnectionBalancer)
    started: Callable[[], None] = _ignore


@dataclass(frozen=True, slots=True)
class DrainTimes:
    """The drain delay, and the time for running requests to finish after it, in seconds."""

    delay_s: float
    finish_s: float


class DrainingServer(uvicorn.Server):
    """A uvicorn server that drains on SIGTERM, SIGINT or SIGHUP, and returns.

    It calls ``on_drain`` and accepts connections for the drain delay. Each response then closes its connection. After
    the delay it accepts no more, closes idle connections and finishes the running requests. A second SIGINT, or a
    second SIGTERM after ``SAME_S``, cuts all of this short. It must run in the main thread.

    In a worker, the end of the delay is the moment at which the supervisor shuts the socket down. On SIGHUP a worker
    leaves new connections to the other workers, and ends without a call of ``on_drain``.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        on_drain: Callable[[], None],
        times: DrainTimes,
        shared: SharedListener | None = None,
    ) -> None:
        super().__init__(config)
        self._on_drain = on_drain
        self._times = times
        self._shared = shared
        self._balancer = ConnectionBalancer() if shared is None else shared.balancer
        self._acceptors: list[Acceptor] = []
        self._signalled_at: float | None = None
        self._hurried = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the signals while serving. Unlike uvicorn, do not raise them again afterwards.

        Afterwards only SIGINT ends the process: another SIGTERM must not keep it from recording and closing.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, *_signals_to_end(is_worker=self._shared is not None)):
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start accepting connections from listening sockets."""
        await super().startup(sockets=[])
        connections = self.server_state.connections.__len__
        table, end = self._table, self._end_delay
        close_one = None if table is None else table.close_one
        self._acceptors = [
            Acceptor(listener, self._make_protocol, self._balancer, connections, close_one, end)
            for listener in sockets or []
        ]
        if self._shared is not None:
            self._shared.started()

    async def on_tick(self, counter: int) -> bool:
        """Publish the number of connections for the other workers. Uvicorn calls this every 0.1 s."""
        self._balancer.publish(len(self.server_state.connections))
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, wait for running requests, and cancel those that do not end in time."""
        await self._stop_accepting(sockets or [])
        for connection in self._connections():
            connection.shutdown()
        asyncio.get_running_loop().call_later(SILENT_S, self._close_silent)
        await self._finish()
        cut = list(self.server_state.tasks)
        if cut:
            _LOG.warning("%d requests did not finish in time and are cut off", len(cut))
        for task in cut:
            task.cancel()

    @property
    def _table(self) -> ConnectionTable | None:
        return cast("type[LimitedHttpProtocol]", self.config.http_protocol_class).table

    def _make_protocol(self) -> ClosableProtocol:
        make = cast("Callable[..., ClosableProtocol]", self.config.http_protocol_class)
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def _connections(self) -> Sequence[LimitedHttpProtocol]:
        return cast("Sequence[LimitedHttpProtocol]", list(self.server_state.connections))

    def _on_signal(self, number: int) -> None:
        now = asyncio.get_running_loop().time()
        previous, self._signalled_at = self._signalled_at, now
        if self._shared is not None and number == signal.SIGHUP:
            self._signalled_at = previous
            self._retire()
        elif previous is None:
            self._on_drain()
            self._drain(self._times.delay_s + (0.0 if self._shared is None else ALONE_S))
        elif number == signal.SIGINT or now - previous >= SAME_S:
            self._hurried.set()
            self.should_exit = True

    def _retire(self) -> None:
        """Leave new connections to the other workers, and end after the drain delay."""
        self._balancer.leave()
        for acceptor in self._acceptors:
            acceptor.close()
        self._drain(self._times.delay_s)

    def _drain(self, delay_s: float) -> None:
        """Announce in every response that its connection closes, and stop accepting after the delay."""
        table = self._table
        if table is not None:
            table.is_draining = True
        for connection in self._connections():
            connection.announce_close()
        if delay_s:
            asyncio.get_running_loop().call_later(delay_s, self._end_delay)
        else:
            self._end_delay()

    def _end_delay(self) -> None:
        self.should_exit = True

    async def _stop_accepting(self, listeners: Sequence[socket.socket]) -> None:
        """Accept what waits, and close the sockets. Those that wait on a shared socket are for the other workers."""
        if self._shared is None and self._times.delay_s and not self._hurried.is_set():
            await let_handshakes_end(listeners)
        for acceptor in self._acceptors:
            if self._shared is None:
                acceptor.accept_waiting()
            acceptor.close()
            await acceptor.wait_closed()
        for listener in listeners:
            listener.close()

    def _close_silent(self) -> None:
        for connection in self._connections():
            connection.close_if_silent()

    async def _finish(self) -> None:
        """Wait until all connections are closed, at most for the shutdown timeout. A second signal ends the wait."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._times.finish_s
        while (self.server_state.connections or self.server_state.tasks) and loop.time() < deadline:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await self._hurried.wait()
                return


def end_start_on_signal() -> None:
    """Make the first SIGTERM or SIGHUP cancel the current task, which then closes what it has opened.

    Call this before the process reports that it listens. ``serve_http`` replaces the handlers. A second signal does
    nothing, because another cancellation would stop the cleanup.
    """
    loop, tasks = asyncio.get_running_loop(), [asyncio.current_task()]

    def cancel() -> None:
        while tasks:
            task = tasks.pop()
            if task is not None:
                task.cancel()

    for number in _signals_to_end():
        loop.add_signal_handler(number, cancel)


def _signals_to_end(*, is_worker: bool = False) -> Sequence[signal.Signals]:
    """Return the signals, besides SIGINT, that end a server. A worker handles SIGHUP even below ``nohup``."""
    ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN and not is_worker
    return [signal.SIGTERM] if ignores_hangup else [signal.SIGTERM, signal.SIGHUP]


def connection_limits(settings: Settings) -> ConnectionLimits:
    """Return the limits of client connections that the settings, and the limit of open files, allow."""
    return ConnectionLimits(
        head_s=settings.header_timeout_s,
        stall_s=settings.client_stall_timeout_s,
        keep_alive_s=settings.keep_alive_s,
        connections=connection_limit(settings),
    )


def http_config(app: Any, limits: ConnectionLimits) -> uvicorn.Config:
    """Return uvicorn's configuration for a server of the proxy, with these limits of client connections."""
    return uvicorn.Config(
        app,
        http=LimitedHttpProtocol.limited(limits),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
    )


async def serve_http(
    app: Any,
    listener: socket.socket,
    settings: Settings,
    on_drain: Callable[[], None],
    shared: SharedListener | None = None,
) -> None:
    """Serve until a signal, then wait for running requests, at most for the shutdown timeout.

    ``shared`` is None if the process does not share the socket.
    """
    # Exempt the long-lived objects from garbage collection, so that no request waits while they are scanned.
    gc.collect()
    gc.freeze()
    collect_rarely()
    # The event loop waits up to this long for the interpreter lock when the journal's or an encoding thread has it.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    keep_freed_memory()
    config = http_config(app, connection_limits(settings))
    server = DrainingServer(config, on_drain, DrainTimes(settings.drain_delay_s, settings.shutdown_timeout_s), shared)
    listener.listen(BACKLOG)
    await server.serve(sockets=[listener])
    if server.server_state.tasks:  # they are cut off, but their exchanges are not recorded yet
        await asyncio.wait(list(server.server_state.tasks), timeout=RECORD_TIMEOUT_S)
