"""The faults of the simulated world. One or two of them are active at a time."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

from harness.freshness_links import Mode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from uuid import UUID

    from harness.freshness_links import Link
    from harness.freshness_processes import Process, SharedMemorySegment
    from harness.freshness_world import World

LOSS_S = 1.0
"""A fail-over of Redis loses what was written in so many seconds before, at most."""
SAMPLE_S = 0.05
REST_S = 7.5
"""What is late comes two seconds after; five more and the world has settled."""
BROKEN = (Mode.REFUSING, Mode.STALLED, Mode.STALLED_THERE, Mode.STALLED_BACK)


class Faults:
    """Injects and removes faults, one or two at a time."""

    def __init__(self, world: World, only: str, at_a_time: int) -> None:
        self._world = world
        self._only = only
        self._at_a_time = at_a_time
        self._random = world.random
        self._history: list[tuple[float, list[dict[UUID, str]]]] = []
        self._broken: list[str] = []
        self.broken_until = 0.0

    @property
    def current(self) -> str:
        """The active faults."""
        return " and ".join(sorted(self._broken)) or "none"

    async def happen(self) -> None:
        """Inject faults until cancelled."""
        self._world.spawn(self._remember())
        for _ in range(self._at_a_time):
            self._world.spawn(self._one_after_the_other())

    async def _one_after_the_other(self) -> None:
        world = self._world
        await asyncio.sleep(self._random.uniform(0.0, 8.0))
        while True:
            name = self._only or self._random.choice(list(KINDS))
            self._change_soon()
            await asyncio.sleep(self._random.choice((0.0, 0.01, 0.5)))
            self._broken.append(name)
            self.broken_until = math.inf
            world.tell(f"BROKEN: {name}")
            await KINDS[name](self)
            self._broken.remove(name)
            if not self._broken:
                self.broken_until = world.now
            world.tell(f"WHOLE: {name}")
            self._change_soon()
            await asyncio.sleep(REST_S + self._random.choice((0.0, 1.0, 8.0)) * self._random.random())

    def links(self, between: str) -> list[Link]:
        """Return all links between two kinds of processes."""
        world = self._world
        return {
            "auth-redis": [replica.to_epochs for replica in world.replicas],
            "auth-postgres": [replica.to_store for replica in world.replicas],
            "proxy-redis": [worker.to_epochs for worker in world.workers],
            "proxy-auth": [worker.to_auth for worker in world.workers],
        }[between]

    def _to_redis(self, region: SharedMemorySegment) -> list[Link]:
        return [*(replica.to_epochs for replica in region.replicas), *(worker.to_epochs for worker in region.workers)]

    def _change_soon(self) -> None:
        async def change() -> None:
            await asyncio.sleep(self._random.uniform(0, 0.03))
            self._world.change()

        for _ in range(self._random.choice((0, 1, 3))):
            self._world.spawn(change())

    async def _hold(self) -> None:
        longest = self._random.choice((0.1, 0.5, 2.0, 6.0, 12.0, 12.0))
        await asyncio.sleep(self._random.uniform(0, longest))

    async def one_link(self, between: str) -> None:
        """Cut or stall one link."""
        await self._cut([self._random.choice(self.links(between))])

    async def postgres_down(self) -> None:
        """Cut all links to PostgreSQL. It may return as another incarnation."""
        links = self.links("auth-postgres")
        await self._cut(links)
        if self._world.rules.begins_incarnations and self._random.random() < 0.5:
            self._world.store.change_log.begin_incarnation()
            for link in links:
                link.reset()

    async def log_pruned(self) -> None:
        """Prune the change log while a worker may be disconnected."""
        link = self._random.choice(self.links("proxy-auth"))
        link.cut(self._random.choice(BROKEN))
        await self._hold()
        self._world.store.change_log.prune(0)
        link.cut(Mode.WHOLE)

    async def redis_down(self) -> None:
        """Cut all links to one Redis."""
        await self._cut(self._to_redis(self._random.choice(self._world.regions)))

    async def _cut(self, links: list[Link]) -> None:
        mode = self._random.choice(BROKEN)
        self._world.tell(f"  {mode.name}")
        for link in links:
            link.cut(mode)
        await self._hold()
        for link in links:
            link.cut(Mode.WHOLE)

    async def slow(self, between: str) -> None:
        """Slow one link down so much that some of its messages are late."""
        link = self._random.choice(self.links(between))
        slowest_s = link.timeout_s * self._random.uniform(0.05, 0.6)
        link.delays_s.append(slowest_s)
        await self._hold()
        link.delays_s.remove(slowest_s)

    async def kill(self) -> None:
        """Kill an auth replica and start it again."""
        replica = self._random.choice(self._world.replicas)
        replica.kill()
        await self._hold()
        replica.start()

    async def pause_auth(self) -> None:
        """Pause an auth replica, as SIGSTOP does."""
        replica = self._random.choice(self._world.replicas)
        await self._pause(replica, [replica.to_epochs, replica.to_store])

    async def pause_worker(self) -> None:
        """Pause a worker."""
        worker = self._random.choice(self._world.workers)
        await self._pause(worker, [worker.to_epochs, worker.to_auth])

    async def _pause(self, process: Process, links: list[Link]) -> None:
        process.may_run.clear()
        for link in links:
            link.cut(Mode.STALLED)
        await self._hold()
        for link in links:
            link.cut(Mode.WHOLE)
        process.may_run.set()

    async def flush(self) -> None:
        """Empty a Redis."""
        self._random.choice(self._world.regions).epochs.become({})

    async def fail_over(self) -> None:
        """Promote a replica of a Redis that lacks the latest writes."""
        number = self._random.randrange(len(self._world.regions))
        now = self._world.now
        kept = [contents[number] for when, contents in self._history if when >= now - LOSS_S]
        await self._become_another(number, self._random.choice(kept) if kept else {})

    async def restart_empty(self) -> None:
        """Restart a Redis without persistence."""
        await self._become_another(self._random.randrange(len(self._world.regions)), {})

    async def _become_another(self, number: int, content: dict[UUID, str]) -> None:
        region = self._world.regions[number]
        links = self._to_redis(region)
        if self._random.random() < 0.4:
            mode = self._random.choice((Mode.REFUSING, Mode.STALLED))
            for link in links:
                link.cut(mode)
            await self._hold()
        region.epochs.become(content)
        for link in links:
            link.reset()
            link.cut(Mode.WHOLE)

    async def _remember(self) -> None:
        while True:
            self._history.append((self._world.now, [region.epochs.content() for region in self._world.regions]))
            del self._history[: -int(LOSS_S / SAMPLE_S) - 1]
            await asyncio.sleep(SAMPLE_S)


KINDS: Final[Mapping[str, Callable[[Faults], Awaitable[None]]]] = {
    "a link auth-redis": lambda faults: faults.one_link("auth-redis"),
    "a link auth-postgres": lambda faults: faults.one_link("auth-postgres"),
    "a link proxy-redis": lambda faults: faults.one_link("proxy-redis"),
    "a link proxy-auth": lambda faults: faults.one_link("proxy-auth"),
    "auth killed": Faults.kill,
    "auth paused": Faults.pause_auth,
    "worker paused": Faults.pause_worker,
    "postgres down": Faults.postgres_down,
    "log pruned": Faults.log_pruned,
    "redis down": Faults.redis_down,
    "redis flushed": Faults.flush,
    "redis failed over": Faults.fail_over,
    "redis restarted empty": Faults.restart_empty,
    "slow auth-redis": lambda faults: faults.slow("auth-redis"),
    "slow auth-postgres": lambda faults: faults.slow("auth-postgres"),
    "slow proxy-redis": lambda faults: faults.slow("proxy-redis"),
    "slow proxy-auth": lambda faults: faults.slow("proxy-auth"),
}
"""All that can happen, by name."""
