"""The filter of live tokens in Redis (spec 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibex.adapters.redis.keys import EXCLUDES, FILTER_KEY, FRESHNESS_TAG, LEASE_KEY, MADE_KEY
from ibex.domain.known_tokens import positions

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from ibex.adapters.redis.connection import Command
    from ibex.adapters.redis.link import RedisLink


class RedisKnownTokens:
    """A ``KnownTokens``: one script looks at lease, filter and bits at the same moment."""

    def __init__(self, link: RedisLink, heard: Callable[[bool], None] = lambda _excluded: None) -> None:
        """Take what hears whether the filter excluded a token, whenever it was vouched for and so could."""
        self._link = link
        self._heard = heard

    async def excludes(self, token_id: UUID) -> bool:
        """Tell whether the token is certainly not live; see ``KnownTokens``."""

        def build(_askers: int, instance: str) -> Command:
            return EXCLUDES.call((MADE_KEY, FILTER_KEY, LEASE_KEY), instance, *positions(token_id))

        answer, _ = await self._link.ask(FRESHNESS_TAG, ("excludes", token_id), build)
        excluded = answer is not None and answer.reply == 1
        if answer is not None and answer.lease is not None:
            self._heard(excluded)
        return excluded
