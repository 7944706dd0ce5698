"""What befalls the simulated world: one thing at a time, each of them a row of what may break."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

from harness.freshness_links import Mode
from ibex.adapters.memory.board import Kept

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from harness.freshness_links import Link
    from harness.freshness_world import World

LOSS_S = 1.0
"""A fail-over loses what was written in so many seconds before, at most."""
SAMPLE_S = 0.05
REST_S = 7.5
"""What is late comes two seconds after; five more and the world has settled."""
BROKEN = (Mode.REFUSING, Mode.SILENT, Mode.LATE)


class Faults:
    """Breaks one thing after the other and makes it whole again."""

    def __init__(self, world: World, only: str) -> None:
        self._world = world
        self._only = only
        self._random = world.random
        self._history: list[tuple[float, Kept]] = []
        self._names = self._random.choice(((), ("one", "other")))
        self._reigns = 0
        self.current = "none"
        self.broken_until = 0.0

    async def happen(self) -> None:
        """Break things until cancelled."""
        world = self._world
        world.spawn(self._remember())
        await asyncio.sleep(self._random.uniform(0.0, 8.0))
        while True:
            name = self._only or self._random.choice(list(KINDS))
            self._change_soon()
            await asyncio.sleep(self._random.choice((0.0, 0.01, 0.5)))
            self.current, self.broken_until = name, math.inf
            world.tell(f"BROKEN: {name}")
            await KINDS[name](self)
            self.broken_until = world.now
            world.tell(f"WHOLE: {name}")
            self._change_soon()
            await asyncio.sleep(REST_S + self._random.choice((0.0, 1.0, 8.0)) * self._random.random())

    def links(self, between: str) -> list[Link]:
        """Return all links between two kinds of processes."""
        world = self._world
        return {
            "auth-redis": [replica.to_board for replica in world.replicas],
            "auth-postgres": [replica.to_store for replica in world.replicas],
            "proxy-redis": [worker.to_board for worker in world.workers],
            "proxy-auth": [worker.to_auth for worker in world.workers],
        }[between]

    @property
    def _to_redis(self) -> list[Link]:
        return self.links("auth-redis") + self.links("proxy-redis")

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
        """Cut one link."""
        await self._cut([self._random.choice(self.links(between))])

    async def postgres_down(self) -> None:
        """Cut all links to it."""
        await self._cut(self.links("auth-postgres"))

    async def redis_down(self) -> None:
        """Cut all links to it."""
        await self._cut(self._to_redis)

    async def _cut(self, links: list[Link]) -> None:
        mode = self._random.choice(BROKEN)
        self._world.tell(f"  {mode.name}")
        for link in links:
            link.cut(mode)
        await self._hold()
        for link in links:
            link.cut(Mode.WHOLE)

    async def slow(self, between: str) -> None:
        """Make one link so slow that some of what goes over it is too late."""
        link = self._random.choice(self.links(between))
        usual, link.slowest_s = link.slowest_s, link.timeout_s * self._random.uniform(0.05, 0.6)
        await self._hold()
        link.slowest_s = usual

    async def kill(self) -> None:
        """Kill an auth replica and start it again."""
        replica = self._random.choice(self._world.replicas)
        replica.kill()
        await self._hold()
        replica.start()

    async def flush(self) -> None:
        """Empty the Redis."""
        self._world.board.flush()

    async def fail_over(self) -> None:
        """Have a replica of the Redis take over, which lacks what was written last."""
        now = self._world.now
        kept = [what for when, what in self._history if when >= now - LOSS_S]
        await self._become_another(self._random.choice(kept))

    async def restart_empty(self) -> None:
        """Restart a Redis that keeps nothing."""
        await self._become_another(Kept())

    async def _become_another(self, kept: Kept) -> None:
        if self._random.random() < 0.4:
            mode = self._random.choice((Mode.REFUSING, Mode.SILENT))
            for link in self._to_redis:
                link.cut(mode)
            await self._hold()
        self._reigns += 1
        name = self._names[self._reigns % 2] if self._names else None
        self._world.board.fail_over(kept, name)
        self._history.clear()
        for link in self._to_redis:
            link.reset()
            link.cut(Mode.WHOLE)

    async def _remember(self) -> None:
        while True:
            self._history.append((self._world.now, self._world.board.kept()))
            del self._history[: -int(LOSS_S / SAMPLE_S) - 1]
            await asyncio.sleep(SAMPLE_S)


KINDS: Final[Mapping[str, Callable[[Faults], Awaitable[None]]]] = {
    "a link auth-redis": lambda faults: faults.one_link("auth-redis"),
    "a link auth-postgres": lambda faults: faults.one_link("auth-postgres"),
    "a link proxy-redis": lambda faults: faults.one_link("proxy-redis"),
    "a link proxy-auth": lambda faults: faults.one_link("proxy-auth"),
    "auth killed": Faults.kill,
    "postgres down": Faults.postgres_down,
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
