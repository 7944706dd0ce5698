"""The supervisor of several workers on one listening socket (ADR 0023)."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import nullcontext, suppress
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

from ibex.adapters.telemetry.shared_memory import SharedMemorySegment, create_shared_memory
from ibex.entrypoints.ops_server import listen_for_ops
from ibex.entrypoints.proxy_server import BACKLOG, address_of, listen

if TYPE_CHECKING:
    import socket
    from asyncio.subprocess import Process
    from collections.abc import Mapping

    from ibex.entrypoints.settings import Settings

_LOG = logging.getLogger("ibex.workers")
EARLY_S: Final = 5.0
"""If a worker fails within this time, or before it served, all are stopped. One that was killed is restarted."""
RESTART_DELAY_S: Final = 0.5
AFTER_SHUTDOWN_S: Final = 15.0
"""The time that a worker has beyond ``IBEX_SHUTDOWN_TIMEOUT`` to flush its sinks, before it is killed."""


@dataclass(frozen=True, slots=True)
class WorkerSlot:
    """The arguments of a worker: file descriptors, and its number, counted from 0.

    The descriptors are the listening socket, the read end of a pipe that closes when the supervisor ends, the shared
    memory of the metrics (ADR 0029), and the socket of ``IBEX_OPS_LISTEN``. An absent descriptor is -1.
    """

    listener: int
    parent_pipe: int
    number: int
    metrics: int = -1
    ops: int = -1

    @classmethod
    def parse(cls, text: str) -> WorkerSlot:
        """Parse the result of ``str``. Raises ``ValueError``."""
        numbers = [int(number) for number in text.split(",")]
        if len(numbers) != len(fields(cls)):
            raise ValueError(f"a worker slot has {len(fields(cls))} numbers, not {len(numbers)}")
        return cls(*numbers)

    def __str__(self) -> str:
        return f"{self.listener},{self.parent_pipe},{self.number},{self.metrics},{self.ops}"


def supervise(settings: Settings, environ: Mapping[str, str], count: int) -> int:
    """Run ``count`` workers with the environment ``environ`` until SIGINT or SIGTERM, and return the exit code.

    A worker that dies is restarted. If one cannot start, all are stopped, and its exit code is returned. Raises
    ``OSError`` if the address cannot be bound.
    """
    with listen(settings.host, settings.port) as listener, listen_for_ops(settings, listener) or nullcontext() as ops:
        listener.listen(BACKLOG)
        return asyncio.run(_Supervisor(settings, environ, listener, count, ops).run())


class _Supervisor:
    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        listener: socket.socket,
        count: int,
        ops: socket.socket | None,
    ) -> None:
        self._ops = ops
        self._stop_timeout_s = settings.shutdown_timeout_s + AFTER_SHUTDOWN_S
        self._environ = environ
        self._listener = listener
        self._count = count
        self._stopping = asyncio.Event()
        self._exit_code = 0

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopping.set)
        self._parent_pipe, kept_open = os.pipe()
        self._metrics = create_shared_memory(self._count)
        self._segments = SharedMemorySegment.all_of(self._metrics)
        try:
            _LOG.info("%d workers on %s", self._count, address_of(self._listener))
            await asyncio.gather(*(self._keep_running(number) for number in range(self._count)))
        finally:
            os.close(self._parent_pipe)
            os.close(kept_open)
            os.close(self._metrics)
        return self._exit_code

    async def _keep_running(self, number: int) -> None:
        """Run one worker, and restart it when it dies, until ``_stopping`` is set."""
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            started = loop.time()
            worker = await self._spawn(number)
            await self._wait_for_end_or_stop(worker)
            if worker.returncode is None:
                await self._stop(worker)
                return
            _LOG.error("worker %d ended with code %d", number, worker.returncode)
            is_early = loop.time() - started < EARLY_S
            if worker.returncode > 0 and (is_early or not self._has_served(number, worker)):
                self._exit_code = worker.returncode
                self._stopping.set()
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), RESTART_DELAY_S)

    def _has_served(self, number: int, worker: Process) -> bool:
        """Return whether the worker's event loop has run, however long the start took."""
        segment = self._segments[number]
        return segment.pid == worker.pid and segment.heartbeat_ns > 0

    async def _spawn(self, number: int) -> Process:
        ops = -1 if self._ops is None else self._ops.fileno()
        slot = WorkerSlot(self._listener.fileno(), self._parent_pipe, number, self._metrics, ops)
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # do not import modules from the current directory
            "-m",
            "ibex.entrypoints.worker",
            str(slot),
            env=self._environ,
            pass_fds=[fd for fd in (slot.listener, slot.parent_pipe, slot.metrics, slot.ops) if fd >= 0],
            start_new_session=True,  # Ctrl-C goes to the supervisor only, which terminates them
        )

    async def _wait_for_end_or_stop(self, worker: Process) -> None:
        waiting = [asyncio.create_task(worker.wait()), asyncio.create_task(self._stopping.wait())]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def _stop(self, worker: Process) -> None:
        worker.terminate()
        try:
            code = await asyncio.wait_for(worker.wait(), self._stop_timeout_s)
        except TimeoutError:
            worker.kill()
            code = await worker.wait()
        if code not in (0, -signal.SIGTERM):  # -SIGTERM: it had not begun to serve
            self._exit_code = self._exit_code or 1


def end_with_parent(parent_pipe: int) -> None:
    """Send SIGTERM to this process when the supervisor ends. Call this in the worker's event loop."""
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(parent_pipe)
        os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(parent_pipe, ended)
