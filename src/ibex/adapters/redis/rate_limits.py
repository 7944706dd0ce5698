"""Rate limits in Redis, and the organization's news on the same way (spec 5, 6)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from ibex.adapters.redis.keys import COUNT, generations_key, window_key
from ibex.domain.freshness import Kind, News, no_news
from ibex.domain.rate_limits import Tally, WindowCounter, window_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from uuid import UUID

    from ibex.adapters.redis.connection import Command
    from ibex.adapters.redis.link import Answer, RedisLink
    from ibex.domain.clock import Clock
    from ibex.domain.ids import IdSource

_KINDS: Final = (Kind.TOKENS, Kind.AGENTS, Kind.DIRECTIVES)


class RedisRateLimiter:
    """A ``RateLimiter``. While Redis does not answer it counts in process: each worker lets the limit through."""

    def __init__(
        self, link: RedisLink, clock: Clock, ids: IdSource, on_fallback: Callable[[], None] = lambda: None
    ) -> None:
        """Take what is called for each request that is counted in process."""
        self._link = link
        self._clock = clock
        self._ids = ids
        self._own = WindowCounter()
        self._on_fallback = on_fallback

    async def count(self, org_id: UUID, now: datetime) -> Tally:
        """Count one request; see ``RateLimiter``."""
        minute = window_of(now)
        asked_ns = self._clock.monotonic_ns()
        answer, place = await self._link.ask(org_id, (org_id.int, minute), partial(self._command, org_id, minute))
        if answer is None:
            self._on_fallback()
            return Tally(self._own.count(org_id, now), no_news(asked_ns))
        return Tally(answer.reply[0] - answer.askers + place, _news(answer))

    async def news(self, org_id: UUID) -> News:
        """Return the organization's news; see ``RateLimiter``."""
        asked_ns = self._clock.monotonic_ns()
        answer, _ = await self._link.ask(
            org_id, org_id.int, lambda _askers, instance: self._command(org_id, 0, 0, instance)
        )
        return no_news(asked_ns) if answer is None else _news(answer)

    def _command(self, org_id: UUID, minute: int, requests: int, _instance: str) -> Command:
        return COUNT.call((window_key(org_id, minute), generations_key(org_id)), requests, str(self._ids.uuid7()))


def _news(answer: Answer) -> News:
    if answer.understood is None:
        generations = (value.decode(errors="surrogateescape") for value in answer.reply[1:])  # whatever, it is equal
        answer.understood = News(answer.asked_ns, answer.lease, dict(zip(_KINDS, generations, strict=True)))
    news: News = answer.understood
    return news
