"""The supervisor of the workers on one listening socket: start, restart, replacement and end (ADR 0023, ADR 0060)."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ibex.adapters.telemetry.logging import configure_logging
from ibex.adapters.telemetry.shared_memory import SharedMemorySegment, create_shared_memory
from ibex.entrypoints.listening import address_of, let_handshakes_end, listen, shut_down
from ibex.entrypoints.ops_server import listen_for_ops
from ibex.entrypoints.outcome import EXIT_USAGE
from ibex.entrypoints.proxy_server import ALONE_S, SAME_S
from ibex.entrypoints.worker_process import WorkerProcess, WorkerSlot

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Mapping
    from typing import Any

    from ibex.entrypoints.settings import Settings

_LOG = logging.getLogger("ibex.workers")
EARLY_S: Final = 5.0
"""If a worker fails within this time, or before it served, all are stopped. One that was killed is restarted."""
RESTART_DELAY_S: Final = 0.5
UNUSABLE_FILE_DELAY_S: Final = 5.0
"""The delay before a worker that finds an unusable file of a secret is started again."""
AFTER_SHUTDOWN_S: Final = 30.0
"""The time that a worker has beyond ``IBEX_SHUTDOWN_TIMEOUT`` to record, to flush its sinks and to close."""
START_TIMEOUT_S: Final = 60.0
"""The time that a worker has to start before it replaces another one."""


def supervise(
    settings: Settings,
    environ: Mapping[str, str],
    count: int,
    read_again: Callable[[], tuple[Settings, Mapping[str, str]] | None] = lambda: None,
) -> int:
    """Run ``count`` workers with the environment ``environ`` until SIGINT or SIGTERM, and return the exit code.

    A worker that dies is restarted. If one cannot start, all are stopped, and its exit code is returned. On SIGHUP the
    workers are replaced one by one; ``read_again`` then returns the new settings and environment, or None to keep the
    workers. Raises ``OSError`` if an address cannot be bound.
    """
    # The first worker that serves listens. Until then connections are refused, so a load balancer tries another.
    with listen(settings.host, settings.port) as listener, listen_for_ops(settings, listener) or nullcontext() as ops:
        return asyncio.run(_Supervisor(settings, environ, listener, ops, count, read_again).run())


@dataclass(slots=True)
class _Place:
    """A place for a worker; None while its worker is restarted. The lock is held while a worker is put into it."""

    worker: WorkerProcess | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class _Supervisor:
    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        listener: socket.socket,
        ops: socket.socket | None,
        count: int,
        read_again: Callable[[], tuple[Settings, Mapping[str, str]] | None],
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._listener = listener
        self._ops = ops
        self._read_again = read_again
        self._places = [_Place() for _ in range(count)]
        self._live: set[WorkerProcess] = set()
        # One more number, for a worker that is being replaced. The last one that became free is used first, so that the
        # worker that replaces a dead one has its number.
        self._free = list(range(count, -1, -1))
        self._stopping = asyncio.Event()
        self._hurried = asyncio.Event()
        self._hangup = asyncio.Event()
        self._signalled_at = 0.0
        self._exit_code = 0

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._hangup.set)
        self._parent_pipe, kept_open = os.pipe()
        self._metrics = create_shared_memory(len(self._free))
        self._segments = SharedMemorySegment.all_of(self._metrics)
        try:
            _LOG.info("%d workers on %s", len(self._places), address_of(self._listener))
            replacing = asyncio.create_task(self._replace_on_hangup())
            running = asyncio.gather(*(self._keep_running(place) for place in self._places))
            await _first_of(self._stopping.wait(), asyncio.wait([running]))
            replacing.cancel()
            await asyncio.gather(replacing, return_exceptions=True)
            await running
            await self._stop()
        finally:
            os.close(self._parent_pipe)
            os.close(kept_open)
            os.close(self._metrics)
        return self._exit_code

    def _on_signal(self, number: int) -> None:
        now = asyncio.get_running_loop().time()
        if self._stopping.is_set() and (number == signal.SIGINT or now - self._signalled_at >= SAME_S):
            self._hurried.set()
            for worker in self._live:
                worker.hurry()
        self._signalled_at = now
        self._stopping.set()

    # Running

    async def _keep_running(self, place: _Place) -> None:
        """Run the worker of a place, and restart it when it dies, until ``_stopping`` is set."""
        while not self._stopping.is_set():
            async with place.lock:
                if place.worker is None:
                    place.worker = await self._spawn(replaces=False)
                worker = place.worker
            await _first_of(asyncio.wait([worker.ended]), self._stopping.wait())
            if self._stopping.is_set():
                return
            if worker is place.worker:  # else it was replaced
                place.worker = None
                await self._after_death_of(worker)

    async def _after_death_of(self, worker: WorkerProcess) -> None:
        """Wait for a moment before the restart, or stop all workers if this one could not start.

        If the settings are invalid although a worker has served with them, the file of a secret is unusable at the
        moment (ADR 0061). The other workers go on with the old value.
        """
        code = worker.ended.result()
        _LOG.error("worker %d ended with code %d", worker.number, code)
        is_early = asyncio.get_running_loop().time() - worker.started_at < EARLY_S
        delay_s = RESTART_DELAY_S
        if code > 0 and (is_early or not worker.serves):
            if code != EXIT_USAGE or not any(segment.heartbeat_ns > 0 for segment in self._segments):
                self._exit_code = code
                self._stopping.set()
                return
            delay_s = UNUSABLE_FILE_DELAY_S
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._stopping.wait()

    async def _spawn(self, *, replaces: bool) -> WorkerProcess:
        number = self._free.pop()
        slot = WorkerSlot(
            listener=self._listener.fileno(),
            parent_pipe=self._parent_pipe,
            number=number,
            metrics=self._metrics,
            replaces=int(replaces),
            ops=-1 if self._ops is None else self._ops.fileno(),
        )
        worker = await WorkerProcess.spawn(slot, self._environ)
        self._live.add(worker)
        worker.ended.add_done_callback(lambda _: self._forget(worker))
        if self._stopping.is_set():  # the others have their signal already
            worker.drain()
        return worker

    def _forget(self, worker: WorkerProcess) -> None:
        self._live.discard(worker)
        self._free.append(worker.number)

    # Replacing

    async def _replace_on_hangup(self) -> None:
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            found = self._read_again()
            if found is None:
                continue
            self._settings, self._environ = found
            configure_logging(self._settings.log_level)
            _LOG.info("replacing %d workers", len(self._places))
            for place in self._places:
                if not await self._replace(place):
                    break
            else:
                _LOG.info("all workers are replaced")

    async def _replace(self, place: _Place) -> bool:
        """Start a new worker. Once it serves, end the old one and wait for its end.

        Return False if the new one did not start. The old one then stays.
        """
        async with place.lock:
            new = await self._spawn(replaces=True)
            if not await new.wait_until_serving(START_TIMEOUT_S):
                code = await new.end_within(0)
                self._segments[new.number].release()
                _LOG.error("the new worker did not start (code %d); the workers that are not replaced stay", code)
                return False
            old, place.worker = place.worker, new
        if old is not None:
            old.retire()
            await old.end_within(self._stop_timeout_s)
            self._segments[old.number].release()
        return True

    # Stopping

    @property
    def _stop_timeout_s(self) -> float:
        return self._settings.drain_delay_s + ALONE_S + self._settings.shutdown_timeout_s + AFTER_SHUTDOWN_S

    async def _stop(self) -> None:
        """End all workers. They accept connections during the drain delay; after it, no process does.

        The socket is shut down for all processes, so a worker that hangs does not keep it open.
        """
        for worker in self._live:
            worker.drain()
        ends = [asyncio.create_task(worker.end_within(self._stop_timeout_s)) for worker in self._live]
        if ends and self._settings.drain_delay_s:
            await _first_of(asyncio.sleep(self._settings.drain_delay_s), self._hurried.wait(), asyncio.wait(ends))
            await let_handshakes_end([self._listener])
        shut_down(self._listener)
        for code in await asyncio.gather(*ends):
            if code not in (0, -signal.SIGTERM) and not self._hurried.is_set():  # -SIGTERM: it had not begun to serve
                self._exit_code = self._exit_code or 1


async def _first_of(*waiting: Coroutine[Any, Any, object]) -> None:
    """Wait until one of these is done, and cancel the others."""
    tasks = [asyncio.create_task(one) for one in waiting]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
