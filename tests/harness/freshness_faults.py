"""What befalls the simulated world: one thing at a time, each of them a row of what may break."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from harness.freshness_links import Mode
from ibex.adapters.memory.board import Kept

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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
        self.current = "none"
        self.broken_until = 0.0

    @property
    def kinds(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """All that can happen, by name."""
        world = self._world
        return {
            "a link auth-redis": lambda: self._one_link([r.to_board for r in world.replicas]),
            "a link auth-postgres": lambda: self._one_link([r.to_store for r in world.replicas]),
            "a link proxy-redis": lambda: self._one_link([w.to_board for w in world.workers]),
            "a link proxy-auth": lambda: self._one_link([w.to_auth for w in world.workers]),
            "auth killed": self._kill,
            "postgres down": lambda: self._links([r.to_store for r in world.replicas]),
            "redis down": lambda: self._links(self._to_redis),
            "redis flushed": self._flush,
            "redis failed over": self._fail_over,
            "redis restarted empty": self._restart_empty,
            "slow auth-redis": lambda: self._slow([r.to_board for r in world.replicas]),
            "slow auth-postgres": lambda: self._slow([r.to_store for r in world.replicas]),
            "slow proxy-redis": lambda: self._slow([w.to_board for w in world.workers]),
            "slow proxy-auth": lambda: self._slow([w.to_auth for w in world.workers]),
        }

    async def happen(self) -> None:
        """Break things until cancelled."""
        world = self._world
        world.spawn(self._remember())
        await asyncio.sleep(self._random.uniform(0.0, 8.0))
        while True:
            name = self._only or self._random.choice(list(self.kinds))
            self._change_soon()
            await asyncio.sleep(self._random.choice((0.0, 0.01, 0.5)))
            self.current, self.broken_until = name, math.inf
            world.tell(f"BROKEN: {name}")
            await self.kinds[name]()
            self.broken_until = world.now
            world.tell(f"WHOLE: {name}")
            self._change_soon()
            await asyncio.sleep(REST_S + self._random.choice((0.0, 1.0, 8.0)) * self._random.random())

    @property
    def _to_redis(self) -> list[Link]:
        return [r.to_board for r in self._world.replicas] + [w.to_board for w in self._world.workers]

    def _change_soon(self) -> None:
        async def change() -> None:
            await asyncio.sleep(self._random.uniform(0, 0.03))
            self._world.change()

        for _ in range(self._random.choice((0, 1, 3))):
            self._world.spawn(change())

    async def _hold(self) -> None:
        longest = self._random.choice((0.1, 0.5, 2.0, 6.0, 12.0, 12.0))
        await asyncio.sleep(self._random.uniform(0, longest))

    async def _one_link(self, links: list[Link]) -> None:
        await self._links([self._random.choice(links)])

    async def _links(self, links: list[Link]) -> None:
        mode = self._random.choice(BROKEN)
        self._world.tell(f"  {mode.name}")
        for link in links:
            link.cut(mode)
        await self._hold()
        for link in links:
            link.cut(Mode.WHOLE)

    async def _slow(self, links: list[Link]) -> None:
        link = self._random.choice(links)
        usual, link.slowest_s = link.slowest_s, link.timeout_s * self._random.uniform(0.05, 0.6)
        await self._hold()
        link.slowest_s = usual

    async def _kill(self) -> None:
        replica = self._random.choice(self._world.replicas)
        replica.kill()
        await self._hold()
        replica.start()

    async def _flush(self) -> None:
        self._world.board.flush()

    async def _fail_over(self) -> None:
        now = self._world.now
        kept = [what for when, what in self._history if when >= now - LOSS_S]
        await self._become_another(self._random.choice(kept))

    async def _restart_empty(self) -> None:
        await self._become_another(Kept())

    async def _become_another(self, kept: Kept) -> None:
        if self._random.random() < 0.4:
            mode = self._random.choice((Mode.REFUSING, Mode.SILENT))
            for link in self._to_redis:
                link.cut(mode)
            await self._hold()
        self._world.board.fail_over(kept)
        self._history.clear()
        for link in self._to_redis:
            link.reset()
            link.cut(Mode.WHOLE)

    async def _remember(self) -> None:
        while True:
            self._history.append((self._world.now, self._world.board.kept()))
            del self._history[: -int(LOSS_S / SAMPLE_S) - 1]
            await asyncio.sleep(SAMPLE_S)
