"""What can happen to the board of one process, as to a Redis; what it keeps is in the contract."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from ibex.adapters.memory.board import InMemoryBoard
from ibex.adapters.memory.clock import ManualClock
from ibex.adapters.memory.ids import SequentialIds
from ibex.domain.announce import BoardUnavailableError
from ibex.domain.freshness import LEASE_S, Kind
from ibex.domain.known_tokens import filter_of

ORG, TOKEN, OTHER_TOKEN, UNKNOWN = (UUID(int=n) for n in range(1, 5))
BIT = timedelta(microseconds=1)


class Bench:
    """A board and its clock."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.board = InMemoryBoard(self.clock, SequentialIds())

    async def make_filter(self, *token_ids: UUID) -> None:
        """Make the filter of these tokens."""
        connection = await self.board.connection()
        mark = await self.board.begin_filter(connection)
        assert await self.board.finish_filter(connection, mark, filter_of(token_ids))

    async def renew(self) -> bool:
        """Take a ticket and renew the lease with it, if there is one to take."""
        connection = await self.board.connection()
        ticket = await self.board.begin_turn(connection)
        return ticket is not None and await self.board.renew(connection, ticket)

    async def vouch(self, *token_ids: UUID) -> str:
        """Make the filter of these tokens and renew the lease; return it."""
        await self.make_filter(*token_ids)
        assert await self.renew()
        assert self.lease is not None
        return self.lease

    @property
    def lease(self) -> str | None:
        """The lease that is read now."""
        return self.board.news(ORG).lease


async def test_the_lease_lives_two_seconds_from_its_ticket() -> None:
    """Not from its renewal, which can come late; too late it does nothing."""
    bench = Bench()
    await bench.make_filter()
    connection = await bench.board.connection()
    tickets = [await bench.board.begin_turn(connection) for _ in range(2)]
    bench.clock.advance(timedelta(seconds=LEASE_S) - BIT)
    assert await bench.board.renew(connection, tickets[0] or "")
    assert bench.lease is not None
    bench.clock.advance(BIT)
    assert bench.lease is None

    assert not await bench.board.renew(connection, tickets[1] or "")
    assert bench.lease is None


async def test_news_are_of_when_they_were_asked_for() -> None:
    """Generations that are missing are made, and stay."""
    bench = Bench()
    bench.clock.advance(timedelta(seconds=3))

    news = bench.board.news(ORG)

    assert news.asked_ns == 3_000_000_000
    assert len(set(news.generations.values())) == len(Kind)
    assert bench.board.news(ORG) == news


async def test_a_board_that_cannot_be_reached_says_so() -> None:
    """To who announces; a worker is told that no token is excluded."""
    bench = Bench()
    await bench.vouch()
    connection = await bench.board.connection()
    bench.board.reachable = False

    for asked in (
        bench.board.connection(),
        bench.board.announce(connection, ORG, [Kind.TOKENS]),
        bench.board.add_tokens(connection, [TOKEN]),
        bench.board.begin_turn(connection),
        bench.board.renew(connection, "ticket"),
        bench.board.begin_filter(connection),
        bench.board.finish_filter(connection, "mark", b""),
    ):
        with pytest.raises(BoardUnavailableError):
            await asked
    assert not await bench.board.excludes(UNKNOWN)


async def test_a_connection_that_was_cut_is_another_afterwards() -> None:
    """To the same instance, which has lost nothing."""
    bench = Bench()
    lease = await bench.vouch()
    before = await bench.board.connection()
    bench.board.cut()
    after = await bench.board.connection()

    assert (after.instance, after.number) == (before.instance, before.number + 1)
    with pytest.raises(BoardUnavailableError):
        await bench.board.announce(before, ORG, [Kind.TOKENS])
    assert bench.lease == lease


async def test_a_flush_loses_everything_but_the_connection() -> None:
    """No lease, no filter, no mark, no ticket; generations are others."""
    bench = Bench()
    lease = await bench.vouch()
    connection = await bench.board.connection()
    ticket, mark = await bench.board.begin_turn(connection), await bench.board.begin_filter(connection)
    before = set(bench.board.news(ORG).generations.values())
    bench.board.flush()

    assert bench.lease is None
    assert not before & set(bench.board.news(ORG).generations.values())
    assert not await bench.board.excludes(UNKNOWN)
    assert not await bench.board.finish_filter(connection, mark, b"")
    assert not await bench.renew()
    assert await bench.vouch() != lease
    assert not await bench.board.renew(connection, ticket or "")


async def test_a_fail_over_keeps_the_data_and_vouches_for_none_of_it() -> None:
    """The lease and the filter are the old instance's: they may lack what was written last."""
    bench = Bench()
    await bench.vouch()
    before = await bench.board.connection()
    generations = bench.board.news(ORG).generations
    bench.board.fail_over()
    after = await bench.board.connection()

    assert after.instance != before.instance
    assert after.number != before.number
    assert bench.board.news(ORG).generations == generations
    assert bench.lease is None
    assert not await bench.board.excludes(UNKNOWN)
    assert not await bench.board.add_tokens(after, [TOKEN])
    assert not await bench.renew()


async def test_a_fail_over_may_lose_what_was_written_last() -> None:
    """What was kept before is what there is; later writes to either do not show in the other."""
    bench = Bench()
    await bench.vouch(TOKEN)
    old = bench.board.news(ORG).generations
    kept = bench.board.kept()
    connection = await bench.board.connection()
    await bench.board.announce(connection, ORG, [Kind.TOKENS])
    await bench.board.add_tokens(connection, [OTHER_TOKEN])
    assert not await bench.board.excludes(OTHER_TOKEN)

    for _ in range(2):
        bench.board.fail_over(kept, connection.instance)
        assert bench.board.news(ORG).generations == old
        assert await bench.board.excludes(OTHER_TOKEN)
        await bench.board.announce(await bench.board.connection(), ORG, [Kind.TOKENS])


async def test_an_instance_that_is_back_is_vouched_for_by_another_lease() -> None:
    """Its name is the old one and its filter is not; so nothing that was remembered before is proven."""
    bench = Bench()
    first = await bench.vouch()
    name = (await bench.board.connection()).instance
    bench.board.fail_over()
    second = await bench.vouch()
    bench.board.fail_over(instance=name)

    assert (await bench.board.connection()).instance == name
    assert bench.lease is None
    assert not await bench.renew()
    assert len({first, second, await bench.vouch()}) == 3


async def test_tickets_that_have_run_out_are_not_kept() -> None:
    """Whatever comes of their turns."""
    bench = Bench()
    await bench.make_filter()
    for _ in range(10):
        await bench.board.begin_turn(await bench.board.connection())
        bench.clock.advance(timedelta(seconds=1))

    assert len(bench.board.kept().tickets) == 2
