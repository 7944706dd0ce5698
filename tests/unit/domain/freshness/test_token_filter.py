"""The Bloom filter of live tokens."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from harness.simulated_time import in_simulated_time
from ibex.domain.freshness.change_log import Change
from ibex.domain.freshness.kinds import Kind
from ibex.domain.freshness.token_filter import (
    PAGE_TOKENS,
    RECOUNT_S,
    BloomFilter,
    TokenFilter,
    TokensPage,
    TokensUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ORG = UUID(int=1)
KEY = b"0123456789abcdef"


@dataclass(slots=True)
class Tokens:
    """A ``LiveTokens`` over a list. It fails ``failures`` times, and each page takes a while."""

    ids: list[UUID] = field(default_factory=list)
    failures: int = 0
    pages: int = 0

    async def count(self) -> int:
        """Return the number of tokens."""
        if self.failures:
            self.failures -= 1
            raise TokensUnavailableError
        return len(self.ids)

    async def page(self, after: UUID | None, limit: int) -> TokensPage:
        """Return a page."""
        await asyncio.sleep(0.01)
        self.pages += 1
        ids = sorted(token_id for token_id in self.ids if after is None or token_id > after)
        return TokensPage(ids[:limit], ids[limit - 1] if len(ids) > limit else None)


def test_an_added_token_is_never_absent() -> None:
    """If the filter is filled to its capacity, one in a thousand other tokens passes."""
    tokens = [UUID(int=number) for number in range(20_000)]
    bloom = BloomFilter(20_000, KEY)
    for token_id in tokens:
        bloom.add(token_id)
    assert not any(bloom.definitely_absent(token_id) for token_id in tokens)
    unknown = [UUID(int=number) for number in range(1 << 64, (1 << 64) + 20_000)]
    passed = sum(not bloom.definitely_absent(token_id) for token_id in unknown)
    assert passed < 60
    assert bloom.size_bytes == pytest.approx(20_000 * 15 / 8, abs=2)


def test_bit_positions_depend_on_the_key() -> None:
    """No client can choose an id that passes the filter of every worker."""
    bits = []
    for key in (b"a" * 16, b"b" * 16):
        bloom = BloomFilter(10, key)
        bloom.add(UUID(int=1))
        bits.append(bytes(bloom._bits))  # noqa: SLF001 - its bits
    assert bits[0] != bits[1]


@asynccontextmanager
async def building(token_filter: TokenFilter) -> AsyncIterator[None]:
    """Build the filter during the block."""
    task = asyncio.ensure_future(token_filter.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def created(token_id: UUID) -> Change:
    """Return the change that creates a token."""
    return Change(ORG, Kind.TOKENS, token_id)


@in_simulated_time
async def test_an_incomplete_filter_excludes_no_token() -> None:
    """A token that is not in it yet may be on the next page."""
    tokens = Tokens([uuid4() for _ in range(PAGE_TOKENS + 10)])
    token_filter = TokenFilter(tokens, KEY)
    unknown = uuid4()
    async with building(token_filter):
        token_filter.reset()
        await asyncio.sleep(0.015)
        assert tokens.pages == 1
        assert not token_filter.definitely_absent(unknown)
        await asyncio.sleep(1)
        assert token_filter.is_complete
        assert token_filter.definitely_absent(unknown)
        assert not any(token_filter.definitely_absent(token_id) for token_id in tokens.ids)


@in_simulated_time
async def test_a_token_that_is_created_during_the_build_is_added() -> None:
    """Its page may have been read before."""
    tokens = Tokens([uuid4() for _ in range(PAGE_TOKENS + 10)])
    token_filter = TokenFilter(tokens, KEY)
    new = UUID(int=0)
    async with building(token_filter):
        token_filter.reset()
        await asyncio.sleep(0.015)
        token_filter.changed(created(new))
        await asyncio.sleep(1)
        assert token_filter.is_complete
        assert not token_filter.definitely_absent(new)


@in_simulated_time
async def test_a_cancellation_ends_the_task_even_as_a_build_begins() -> None:
    """A worker that ends would else wait for the task for ever."""
    token_filter = TokenFilter(Tokens([]), KEY)
    task = asyncio.create_task(token_filter.run())
    await asyncio.sleep(1)

    token_filter.reset()
    task.cancel()
    await asyncio.wait([task], timeout=1)

    assert task.cancelled()


@in_simulated_time
async def test_a_stream_that_does_not_resume_discards_the_filter() -> None:
    """This also applies while the filter is being built."""
    tokens = Tokens([uuid4() for _ in range(PAGE_TOKENS + 10)])
    token_filter = TokenFilter(tokens, KEY)
    async with building(token_filter):
        token_filter.reset()
        await asyncio.sleep(0.015)
        missed = UUID(int=0)
        tokens.ids.append(missed)
        token_filter.reset()
        assert not token_filter.definitely_absent(uuid4())
        await asyncio.sleep(1)
        assert token_filter.is_complete
        assert not token_filter.definitely_absent(missed)


@in_simulated_time
async def test_the_build_is_retried_while_the_tokens_cannot_be_listed() -> None:
    """The filter is complete after the first success."""
    tokens = Tokens([uuid4()], failures=3)
    token_filter = TokenFilter(tokens, KEY)
    async with building(token_filter):
        token_filter.reset()
        await asyncio.sleep(2.5)
        assert not token_filter.is_complete
        await asyncio.sleep(1)
        assert token_filter.is_complete


@in_simulated_time
async def test_the_filter_is_rebuilt_when_half_of_its_tokens_are_gone() -> None:
    """The rebuild runs in the background. The old filter excludes tokens until then."""
    tokens = Tokens([uuid4() for _ in range(20_100)])
    gone = tokens.ids[-1]
    token_filter = TokenFilter(tokens, KEY)
    async with building(token_filter):
        token_filter.reset()
        await asyncio.sleep(5)
        del tokens.ids[10_000:]
        await asyncio.sleep(RECOUNT_S + 5)
        assert token_filter.definitely_absent(gone)
