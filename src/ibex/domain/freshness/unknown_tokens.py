"""Refuses tokens that the Bloom filter excludes, without a call to auth."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from ibex.domain.errors import InvalidTokenError, ServiceDegradedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from ibex.domain.clock import Clock
    from ibex.domain.freshness.token_filter import TokenFilter
    from ibex.domain.freshness.watch import Watch

MAX_WAITING: Final = 1_000
"""Requests with unknown tokens that wait for a pong at a time, per worker."""
LONGEST_WAIT_S: Final = 1.5
"""After this time without a pong, auth is asked, because the watch is being replaced."""


class UnknownTokens:
    """Refuses tokens that cannot be live, by the Bloom filter and the watch."""

    def __init__(
        self,
        token_filter: TokenFilter,
        watch: Watch,
        clock: Clock,
        on_answer: Callable[[bool], None] = lambda _excluded: None,
    ) -> None:
        """Set ``on_answer``, which is called with each answer of a complete filter: True if it excludes the token."""
        self._on_answer = on_answer
        self._filter = token_filter
        self._watch = watch
        self._clock = clock
        self._waiting = 0

    async def refuse(self, token_id: UUID) -> None:
        """Return if the token may be live.

        A token that the filter excludes waits for the pong of a ping that was sent after the request arrived: a token
        that was created just before has arrived as an event by then. Raises ``InvalidTokenError`` if the filter still
        excludes it, and ``ServiceDegradedError`` if too many requests wait.
        """
        if not self._filter.is_complete:
            return
        if not self._filter.definitely_absent(token_id):
            self._on_answer(False)  # noqa: FBT003 - the observer's only argument
            return
        if self._waiting >= MAX_WAITING:
            raise ServiceDegradedError(retry_after_s=1)
        self._waiting += 1
        try:
            async with asyncio.timeout(LONGEST_WAIT_S):
                await self._watch.pong_after(self._clock.monotonic_ns())
        except TimeoutError:
            return
        finally:
            self._waiting -= 1
        excluded = self._filter.definitely_absent(token_id)
        self._on_answer(excluded)
        if excluded:
            raise InvalidTokenError
