"""A cache with its entries in sight, a source that waits where it is told to, and the news."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

from harness.chat_scene import Caches
from ibex.adapters.memory.clock import ManualClock
from ibex.domain.fresh_cache import FreshCache, Lifetimes, Recalled
from ibex.domain.freshness import Entry, Kind, News

KEY = "key"
LIFE_S = 30.0
STALE_S = 300.0


@dataclass(slots=True)
class Source:
    """What is fetched from: each answer waits until it is let go, if it is told to wait at all."""

    value: str | Exception | None = "one"
    fetches: int = 0
    gates: list[asyncio.Event] = field(default_factory=list)
    waits: bool = False

    async def __call__(self) -> str | None:
        """Answer with what was true when the fetch began."""
        self.fetches += 1
        answer = self.value
        if self.waits:
            gate = asyncio.Event()
            self.gates.append(gate)
            await gate.wait()
        if isinstance(answer, Exception):
            raise answer
        return answer


class Bench:
    """A cache with its entries in sight, a source, and the news."""

    def __init__(self, life_s: float = LIFE_S, *, may_outlive: bool = True) -> None:
        self.clock = ManualClock()
        self.caches = Caches(self.clock)
        self.entries: dict[str, Entry[str | None]] = {}
        self.source = Source()
        self.lease: str | None = "lease"
        self.generation = "generation"
        self.may_outlive = may_outlive
        lifetimes: Lifetimes[str | None] = Lifetimes(lambda _: life_s, STALE_S, lambda _: self.may_outlive)
        self.cache = FreshCache(Kind.TOKENS, self.entries, lifetimes, self.clock, self.caches)

    @property
    def heard(self) -> list[str]:
        """What the observer heard, without the kind."""
        assert all(kind is Kind.TOKENS for _, kind in self.caches.heard)
        return [what for what, _ in self.caches.heard]

    def news(self) -> News:
        """Return the news as they are now."""
        return News(self.clock.monotonic_ns(), self.lease, {Kind.TOKENS: self.generation})

    def wait(self, seconds: float) -> None:
        """Let time go by."""
        self.clock.advance(timedelta(seconds=seconds))

    async def recall(self) -> Recalled[str, str | None]:
        """Recall the one key."""
        return await self.cache.recall(KEY, self.source)

    async def request(self) -> str | None:
        """Recall and confirm under the news of now, as a request does."""
        recalled = await self.recall()
        return await self.cache.confirm(recalled, self.news())

    async def get(self) -> str | None:
        """Get under the news of now."""
        return await self.cache.get(KEY, self.news(), self.source)

    async def warm(self) -> None:
        """Have an entry that was fetched under the stamp of now."""
        await self.get()
        self.caches.heard.clear()
        self.source.fetches = 0


async def begun(*waiting: asyncio.Task[str | None]) -> None:
    """Let tasks begin, which must not end."""
    for _ in range(5):
        await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
