"""What every board keeps: generations, the lease and the filter, as who reads them sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from harness.redis_observer import RecordingRedisObserver
from ibex.adapters.memory.board import InMemoryBoard
from ibex.adapters.memory.clock import ManualClock
from ibex.adapters.memory.rate_limits import InMemoryRateLimiter
from ibex.adapters.redis.board import RedisBoard
from ibex.adapters.redis.known_tokens import RedisKnownTokens
from ibex.adapters.redis.link import RedisLink
from ibex.adapters.redis.rate_limits import RedisRateLimiter
from ibex.adapters.system.clock import SystemClock
from ibex.adapters.system.ids import SystemIds
from ibex.domain.announce import BoardUnavailableError, Connection
from ibex.domain.freshness import Kind
from ibex.domain.known_tokens import filter_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ibex.domain.announce import Board
    from ibex.domain.known_tokens import KnownTokens
    from ibex.domain.rate_limits import RateLimiter

KNOWN, UNKNOWN = uuid4(), uuid4()


@dataclass(frozen=True, slots=True)
class Scene:
    """A board, and a worker's two ways of reading it."""

    board: Board
    limiter: RateLimiter
    known: KnownTokens

    async def make_filter(self, *token_ids: UUID) -> Connection:
        """Make the filter of these tokens; return the connection."""
        connection = await self.board.connection()
        mark = await self.board.begin_filter(connection)
        assert await self.board.finish_filter(connection, mark, filter_of(token_ids))
        return connection

    async def renew(self) -> bool:
        """Take a ticket and renew the lease with it, if there is one to take."""
        connection = await self.board.connection()
        ticket = await self.board.begin_turn(connection)
        return ticket is not None and await self.board.renew(connection, ticket)


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.integration)])
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    """Each board in turn."""
    if request.param == "memory":
        twin = InMemoryBoard(ManualClock(), SystemIds())
        yield Scene(twin, InMemoryRateLimiter(twin.news), twin)
        return
    url, clock, ids = request.getfixturevalue("redis_url"), SystemClock(), SystemIds()
    link = RedisLink(url, clock, RecordingRedisObserver(), timeout_s=5.0)
    board = RedisBoard(url, ids, timeout_s=5.0)
    yield Scene(board, RedisRateLimiter(link, clock, ids), RedisKnownTokens(link))
    await board.close()
    await link.close()


async def test_an_announcement_replaces_what_it_names_and_nothing_else(scene: Scene) -> None:
    """By a value that was never there; another organization's stay."""
    org, other = uuid4(), uuid4()
    before, others = await scene.limiter.news(org), await scene.limiter.news(other)

    await scene.board.announce(await scene.board.connection(), org, [Kind.TOKENS, Kind.AGENTS])

    after = await scene.limiter.news(org)
    assert after.generations[Kind.DIRECTIVES] == before.generations[Kind.DIRECTIVES]
    assert not {after.generations[kind] for kind in (Kind.TOKENS, Kind.AGENTS)} & set(before.generations.values())
    assert (await scene.limiter.news(other)).generations == others.generations


async def test_the_lease_needs_a_filter_and_names_the_instance(scene: Scene) -> None:
    """Who renews vouches for the filter as well."""
    org = uuid4()
    connection = await scene.board.connection()
    assert await scene.board.begin_turn(connection) is None
    assert (await scene.limiter.news(org)).lease is None

    await scene.make_filter()

    assert await scene.renew()
    lease = (await scene.limiter.news(org)).lease
    assert lease is not None
    assert lease.startswith(f"{connection.instance} ")


async def test_a_ticket_renews_once(scene: Scene) -> None:
    """Neither one that was used nor one that was never given out does."""
    connection = await scene.make_filter()
    ticket = await scene.board.begin_turn(connection)
    assert ticket is not None

    assert not await scene.board.renew(connection, "another")
    assert await scene.board.renew(connection, ticket)
    assert not await scene.board.renew(connection, ticket)


async def test_every_turn_has_a_ticket_of_its_own(scene: Scene) -> None:
    """Replicas take turns at the same time, and the lease is the same for all of them."""
    org, connection = uuid4(), await scene.make_filter()
    first, second = [await scene.board.begin_turn(connection) for _ in range(2)]
    assert first is not None
    assert second is not None

    leases = set()
    for ticket in (second, first):
        assert await scene.board.renew(connection, ticket)
        leases.add((await scene.limiter.news(org)).lease)
    assert len(leases) == 1


async def test_the_filter_is_asked_only_under_a_lease(scene: Scene) -> None:
    """Without one it may lack tokens that are live."""
    await scene.make_filter(KNOWN)
    assert not await scene.known.excludes(UNKNOWN)

    await scene.renew()

    assert await scene.known.excludes(UNKNOWN)
    assert not await scene.known.excludes(KNOWN)


async def test_tokens_are_added_to_the_filter(scene: Scene) -> None:
    """To one that is there: who makes it knows the others."""
    connection = await scene.board.connection()
    assert not await scene.board.add_tokens(connection, [UNKNOWN])
    await scene.make_filter()
    many = [uuid4() for _ in range(1_200)]

    assert await scene.board.add_tokens(connection, [*many, UNKNOWN])

    await scene.renew()
    assert not any([await scene.known.excludes(token_id) for token_id in (*many[::100], UNKNOWN)])
    assert await scene.known.excludes(uuid4())


async def test_a_filter_is_made_once(scene: Scene) -> None:
    """Of two that are made at once the first counts: the other may lack what was added meanwhile. A mark is used up."""
    connection = await scene.board.connection()
    first, second = [await scene.board.begin_filter(connection) for _ in range(2)]

    assert await scene.board.finish_filter(connection, second, filter_of([KNOWN]))
    assert not await scene.board.finish_filter(connection, first, filter_of([]))

    await scene.renew()
    assert not await scene.known.excludes(KNOWN)


async def test_a_mark_that_is_gone_makes_no_filter(scene: Scene) -> None:
    """What was lost since may have held tokens that the content lacks."""
    connection = await scene.board.connection()

    assert not await scene.board.finish_filter(connection, "never made", filter_of([KNOWN]))
    assert not await scene.renew()


async def test_another_connection_is_refused(scene: Scene) -> None:
    """What was announced through it may be lost."""
    real = await scene.board.connection()
    other = Connection(real.instance, real.number + 1)

    for refused in (
        scene.board.announce(other, uuid4(), [Kind.TOKENS]),
        scene.board.add_tokens(other, [KNOWN]),
        scene.board.begin_turn(other),
        scene.board.renew(other, "ticket"),
        scene.board.begin_filter(other),
        scene.board.finish_filter(other, "mark", b""),
    ):
        with pytest.raises(BoardUnavailableError):
            await refused
    assert await scene.board.connection() == real
