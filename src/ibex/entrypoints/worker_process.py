"""A worker process: the arguments from its supervisor, and the supervisor's view of it (ADR 0023, ADR 0060)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class WorkerSlot:
    """The arguments of a worker process: its number, counted from 0, and the file descriptors that it inherits.

    The descriptors are the listening socket, the read end of a pipe that closes when the supervisor ends, the shared
    memory of the metrics (ADR 0029), a pipe to write to once the worker serves, and the socket of ``IBEX_OPS_LISTEN``.
    An absent descriptor is -1. If ``replaces`` is 1, the worker accepts connections only once it is ready.
    """

    listener: int
    parent_pipe: int
    number: int
    metrics: int = -1
    serves_pipe: int = -1
    replaces: int = 0
    ops: int = -1

    @classmethod
    def parse(cls, text: str) -> WorkerSlot:
        """Parse the result of ``str``. Raises ``ValueError``."""
        numbers = [int(number) for number in text.split(",")]
        if len(numbers) != len(fields(cls)):
            raise ValueError(f"a worker slot has {len(fields(cls))} numbers, not {len(numbers)}")
        return cls(*numbers)

    def __str__(self) -> str:
        return ",".join(str(getattr(self, field.name)) for field in fields(self))

    @property
    def descriptors(self) -> Sequence[int]:
        """The descriptors that the worker inherits."""
        possible = (self.listener, self.parent_pipe, self.metrics, self.serves_pipe, self.ops)
        return [descriptor for descriptor in possible if descriptor >= 0]

    def report_serving(self) -> None:
        """Tell the supervisor that this worker accepts connections."""
        if self.serves_pipe >= 0:
            with suppress(BrokenPipeError):  # the supervisor has just ended
                os.write(self.serves_pipe, b"1")
            os.close(self.serves_pipe)


class WorkerProcess:
    """A worker, as its supervisor sees it. ``ended`` is a task that returns the exit code."""

    def __init__(self, process: Process, number: int, serves_pipe: int) -> None:
        loop = asyncio.get_running_loop()
        self.pid = process.pid
        self.number = number
        self.started_at = loop.time()
        self.ended = asyncio.create_task(process.wait())
        self._process = process
        self._serves_pipe = serves_pipe
        self._serves: asyncio.Future[bool] = loop.create_future()
        loop.add_reader(serves_pipe, self._read)

    @classmethod
    async def spawn(cls, slot: WorkerSlot, environ: Mapping[str, str]) -> Self:
        """Start a worker with these arguments, a pipe to report that it serves, and this environment."""
        read, write = os.pipe()
        slot = replace(slot, serves_pipe=write)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # do not import modules from the current directory
                "-m",
                "ibex.entrypoints.worker",
                str(slot),
                env=environ,
                pass_fds=slot.descriptors,
                start_new_session=True,  # Ctrl-C goes to the supervisor only, which terminates them
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        return cls(process, slot.number, read)

    @property
    def serves(self) -> bool:
        """Whether the worker has accepted connections, however long its start took."""
        return self._serves.done() and self._serves.result()

    async def wait_until_serving(self, timeout_s: float) -> bool:
        """Return whether the worker accepts connections within this time; False if it ends before."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(self._serves)
        return False

    def drain(self) -> None:
        """Tell the worker to drain, because all workers end."""
        self._send(signal.SIGTERM)

    def retire(self) -> None:
        """Tell the worker to end, because another one has replaced it."""
        self._send(signal.SIGHUP)

    def hurry(self) -> None:
        """Tell a worker that is ending to cut off its running requests."""
        self._send(signal.SIGINT)

    async def end_within(self, timeout_s: float) -> int:
        """Wait for the end of the worker, kill it after this time, and return its exit code."""
        await asyncio.wait([self.ended], timeout=timeout_s)
        if not self.ended.done():
            self._send(signal.SIGKILL)
        return await self.ended

    def _send(self, number: signal.Signals) -> None:
        """Send a signal unless the worker has ended.

        ``Process.send_signal`` polls first. If the worker has just ended, the poll collects its exit code, so the event
        loop cannot, and reports 255.
        """
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _read(self) -> None:
        """Read whether the worker serves. The pipe closes without a byte if the worker has ended before."""
        asyncio.get_running_loop().remove_reader(self._serves_pipe)
        serves = bool(os.read(self._serves_pipe, 1))
        os.close(self._serves_pipe)
        if not self._serves.done():
            self._serves.set_result(serves)


def end_with_parent(parent_pipe: int) -> None:
    """Send SIGTERM to this process when the supervisor ends. Call this in the worker's event loop."""
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(parent_pipe)
        os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(parent_pipe, ended)
