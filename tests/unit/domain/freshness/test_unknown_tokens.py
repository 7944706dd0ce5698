"""The refusal of tokens that the Bloom filter excludes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import pytest

from harness.simulated_time import LoopClock, in_simulated_time
from ibex.domain.errors import InvalidTokenError, ServiceDegradedError
from ibex.domain.freshness.change_log import Change
from ibex.domain.freshness.kinds import Kind
from ibex.domain.freshness.token_filter import TokenFilter, TokensPage
from ibex.domain.freshness.unknown_tokens import LONGEST_WAIT_S, MAX_WAITING, UnknownTokens

KEY = b"0123456789abcdef"


@dataclass(slots=True)
class Tokens:
    """A ``LiveTokens`` of a list."""

    ids: list[UUID]

    async def count(self) -> int:
        """Return the number of tokens."""
        return len(self.ids)

    async def page(self, after: UUID | None, limit: int) -> TokensPage:  # noqa: ARG002 - one page holds all
        """Return the only page."""
        return TokensPage(sorted(self.ids), None)


def created(token_id: UUID) -> Change:
    """Return the change that creates a token."""
    return Change(UUID(int=1), Kind.TOKENS, token_id)


@dataclass(slots=True)
class Pongs:
    """A watch whose pongs the test triggers."""

    pong: asyncio.Event = field(default_factory=asyncio.Event)

    async def pong_after(self, began_ns: int) -> None:  # noqa: ARG002 - a watch's
        """Wait for it."""
        await self.pong.wait()


async def complete(*ids: UUID) -> TokenFilter:
    """Return a complete filter."""
    token_filter = TokenFilter(Tokens(list(ids)), KEY)
    building = asyncio.ensure_future(token_filter.run())
    token_filter.reset()
    await asyncio.sleep(1)
    building.cancel()
    await asyncio.gather(building, return_exceptions=True)
    assert token_filter.is_complete
    return token_filter


@in_simulated_time
async def test_an_excluded_token_is_refused_after_a_pong() -> None:
    """Before the pong, the token may be one whose event has not arrived."""
    pongs = Pongs()
    unknown = UnknownTokens(await complete(), pongs, LoopClock())  # type: ignore[arg-type]  # only the part in use
    refusing = asyncio.ensure_future(unknown.refuse(uuid4()))
    await asyncio.sleep(1.4)
    assert not refusing.done()
    pongs.pong.set()
    with pytest.raises(InvalidTokenError):
        await refusing


@in_simulated_time
async def test_a_token_that_was_created_just_before_is_not_refused() -> None:
    """Its event arrives before the pong."""
    pongs, token_filter, new = Pongs(), await complete(), uuid4()
    unknown = UnknownTokens(token_filter, pongs, LoopClock())  # type: ignore[arg-type]  # only the part in use
    refusing = asyncio.ensure_future(unknown.refuse(new))
    await asyncio.sleep(0.1)
    token_filter.changed(created(new))
    pongs.pong.set()
    await refusing


@in_simulated_time
async def test_without_a_pong_the_token_is_left_to_auth() -> None:
    """The watch is being replaced, so the filter may lack a token."""
    unknown = UnknownTokens(await complete(), Pongs(), LoopClock())  # type: ignore[arg-type]  # only the part in use
    began = asyncio.get_running_loop().time()
    await unknown.refuse(uuid4())
    assert asyncio.get_running_loop().time() - began == pytest.approx(LONGEST_WAIT_S)


@in_simulated_time
async def test_the_number_of_waiting_requests_is_bounded() -> None:
    """A flood of unknown tokens does not fill the memory. A token that may be live does not wait."""
    live = uuid4()
    unknown = UnknownTokens(await complete(live), Pongs(), LoopClock())  # type: ignore[arg-type]  # only the part in use
    waiting = [asyncio.ensure_future(unknown.refuse(uuid4())) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(ServiceDegradedError):
        await unknown.refuse(uuid4())
    await unknown.refuse(live)
    await asyncio.gather(*waiting)
