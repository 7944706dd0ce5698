"""The faults under the oracle's load: kill and freeze processes, restart servers. Each fault ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ibex.adapters.postgres.server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from harness.failover import PostgresPair
    from harness.redis import RedisServer
    from harness.small_disk import SmallDisk
    from ibex.adapters.clickhouse.engine import ClickHouseEngine

FREEZE_S = (0.1, 1.0)
WITHOUT_LOSS = (
    "kill a worker",
    "freeze redis",
    "restart redis",
    "freeze postgres",
    "restart postgres",
    "freeze clickhouse",
    "restart clickhouse",
)
"""Whatever of these happens, nothing may be lost."""
FAIL_OVER = "fail over postgres"
"""Needs two servers. Nothing may be lost either."""


@dataclass(slots=True)
class OracleFaults:
    """Injects one fault after the other until it is told to stop; counts them by kind."""

    proxy_pid: int
    postgres: PostgresServer | PostgresPair
    clickhouse: ClickHouseEngine
    redis: RedisServer
    random: Random
    disk: SmallDisk | None = None
    kinds: Sequence[str] = ()
    between_s: tuple[float, float] = (0.2, 1.0)
    full: list[tuple[float, float]] = field(default_factory=list)
    """From when to when, in the loop's seconds, the disk was full."""
    done: Counter[str] = field(default_factory=Counter)
    stopping: bool = False

    async def run(self) -> None:
        """Inject faults until ``stopping``, each named kind at least once; without names, all kinds."""
        does = (
            self._kill_worker,
            self._freeze_redis,
            self._restart_redis,
            self._freeze_postgres,
            self._restart_postgres,
            self._freeze_clickhouse,
            self._restart_clickhouse,
        )
        faults = dict(zip(WITHOUT_LOSS, does, strict=True))
        if not isinstance(self.postgres, PostgresServer):
            faults[FAIL_OVER] = self._fail_over
        if self.disk is not None:
            faults["fill the journal's disk"] = self._fill_the_disk
        kinds = [kind for kind in faults if kind in (self.kinds or faults)]
        self.random.shuffle(kinds)
        while True:
            for kind in kinds:
                if self.stopping and self.done.keys() >= set(kinds):
                    return
                await faults[kind]()
                self.done[kind] += 1
                await asyncio.sleep(self.random.uniform(*self.between_s))

    async def _kill_worker(self) -> None:
        workers = _children(self.proxy_pid)
        if workers:
            _signal([self.random.choice(workers)], signal.SIGKILL)

    async def _freeze_redis(self) -> None:
        self.redis.pause()
        await self._a_while()
        self.redis.resume()

    async def _restart_redis(self) -> None:
        await asyncio.to_thread(self.redis.kill)
        await self._a_while()
        await asyncio.to_thread(self.redis.start)

    @property
    def _primary(self) -> PostgresServer:
        return self.postgres if isinstance(self.postgres, PostgresServer) else self.postgres.primary

    async def _fail_over(self) -> None:
        """Let the standby take over from a primary that crashed, or that keeps its sessions. Then make another."""
        assert not isinstance(self.postgres, PostgresServer)
        crashes = self.random.random() < 0.5
        pair = self.postgres
        await asyncio.to_thread(pair.fail_over if crashes else pair.fail_over_beside_open_sessions)
        await self._a_while()
        await asyncio.to_thread(pair.rebuild)

    async def _freeze_postgres(self) -> None:
        pid = self._primary.pid
        if pid is None:
            return
        await self._freeze([pid, *_children(pid)])

    async def _restart_postgres(self) -> None:
        await asyncio.to_thread(self._primary.restart, immediate=True)

    async def _freeze_clickhouse(self) -> None:
        if self.clickhouse.pid is not None:
            await self._freeze([self.clickhouse.pid])

    async def _restart_clickhouse(self) -> None:
        if self.random.random() < 0.5 and self.clickhouse.pid is not None:
            os.kill(self.clickhouse.pid, signal.SIGKILL)
            await self._a_while()
        else:
            await asyncio.to_thread(self.clickhouse.stop)
        await asyncio.to_thread(self.clickhouse.start)

    async def _fill_the_disk(self) -> None:
        """Fill the journal's disk, possibly while another fault affects the worker."""
        assert self.disk is not None
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.to_thread(self.disk.fill)
        await self._a_while()
        if self.random.random() < 0.5:
            await self._kill_worker()
            self.done["kill a worker"] += 1
            await self._a_while()
        await asyncio.to_thread(self.disk.make_room)
        self.full.append((began, loop.time()))

    async def _freeze(self, pids: list[int]) -> None:
        _signal(pids, signal.SIGSTOP)
        await self._a_while()
        _signal(pids, signal.SIGCONT)

    async def _a_while(self) -> None:
        await asyncio.sleep(self.random.uniform(*FREEZE_S))


def _children(pid: int) -> list[int]:
    with suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
