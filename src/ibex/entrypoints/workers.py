"""Several proxy processes on one listening socket, and the process that watches over them (ADR 0023)."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

from ibex.adapters.telemetry.shared_memory import SharedMemorySegment, shared_memory
from ibex.entrypoints.proxy_server import BACKLOG, address_of, listen

if TYPE_CHECKING:
    import socket
    from asyncio.subprocess import Process
    from collections.abc import Mapping

    from ibex.entrypoints.settings import Settings

_LOG = logging.getLogger("ibex.workers")
EARLY_S: Final = 5.0
"""A worker that fails sooner is not tried again and again, nor is one that never served. One that was killed is."""
RESTART_DELAY_S: Final = 0.5
AFTER_SHUTDOWN_S: Final = 15.0
"""What a worker may take beyond ``IBEX_SHUTDOWN_TIMEOUT``, for its sinks; then it is killed."""


@dataclass(frozen=True, slots=True)
class WorkerSlot:
    """What a worker is given: the listening socket, a pipe that ends with who watches over it, and its number.

    And the memory in which all workers count (ADR 0029). What it has not is -1.
    """

    listener: int
    parent_pipe: int
    number: int
    metrics: int = -1

    @classmethod
    def parse(cls, text: str) -> WorkerSlot:
        """Read what ``str`` wrote. Raises ``ValueError``."""
        numbers = [int(number) for number in text.split(",")]
        if len(numbers) != len(fields(cls)):
            raise ValueError(f"a worker's place is {len(fields(cls))} numbers, not {len(numbers)}")
        return cls(*numbers)

    def __str__(self) -> str:
        return f"{self.listener},{self.parent_pipe},{self.number},{self.metrics}"


def watch_over(settings: Settings, environ: Mapping[str, str], count: int) -> int:
    """Run ``count`` workers until a signal comes; return the exit code. Their environment is ``environ``.

    A worker that dies is replaced. One that cannot start ends them all, with its exit code. Raises ``OSError`` if the
    address cannot be listened on.
    """
    with listen(settings.host, settings.port) as listener:
        listener.listen(BACKLOG)
        return asyncio.run(_Workers(settings, environ, listener, count).run())


class _Workers:
    def __init__(self, settings: Settings, environ: Mapping[str, str], listener: socket.socket, count: int) -> None:
        self._patience_s = settings.shutdown_timeout_s + AFTER_SHUTDOWN_S
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
        self._metrics = shared_memory(self._count)
        self._regions = SharedMemorySegment.all_of(self._metrics)
        try:
            _LOG.info("%d workers on %s", self._count, address_of(self._listener))
            await asyncio.gather(*(self._hold(number) for number in range(self._count)))
        finally:
            os.close(self._parent_pipe)
            os.close(kept_open)
            os.close(self._metrics)
        return self._exit_code

    async def _hold(self, number: int) -> None:
        """Keep one place filled until it is time to stop."""
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            started = loop.time()
            worker = await self._spawn(number)
            await self._until_it_ends_or_should(worker)
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
        """Return whether a worker got as far as serving, however long that takes on a busy machine."""
        region = self._regions[number]
        return region.pid == worker.pid and region.heartbeat_ns > 0

    async def _spawn(self, number: int) -> Process:
        place = WorkerSlot(self._listener.fileno(), self._parent_pipe, number, self._metrics)
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # what lies in the folder it is started from is not for it to import
            "-m",
            "ibex.entrypoints.worker",
            str(place),
            env=self._environ,
            pass_fds=(place.listener, place.parent_pipe, place.metrics),
            start_new_session=True,  # Ctrl-C is for the process that watches; it tells them
        )

    async def _until_it_ends_or_should(self, worker: Process) -> None:
        waiting = [asyncio.create_task(worker.wait()), asyncio.create_task(self._stopping.wait())]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def _stop(self, worker: Process) -> None:
        worker.terminate()
        try:
            code = await asyncio.wait_for(worker.wait(), self._patience_s)
        except TimeoutError:
            worker.kill()
            code = await worker.wait()
        if code not in (0, -signal.SIGTERM):  # the latter: it had not begun to serve, and had nothing to finish
            self._exit_code = self._exit_code or 1


def end_with_parent(parent_pipe: int) -> None:
    """Treat the end of who watches over this worker as SIGTERM; to be called in its event loop."""
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(parent_pipe)
        os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(parent_pipe, ended)
