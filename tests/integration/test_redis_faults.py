"""Redis killed, frozen, emptied, started anew; and how its round trips are shared."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from redis.crc import key_slot

from harness.redis_observer import RecordingRedisObserver
from ibex.adapters.memory.clock import ManualClock
from ibex.adapters.redis.board import RedisBoard
from ibex.adapters.redis.breaker import FAILURES_IN_A_ROW, PAUSE_S
from ibex.adapters.redis.keys import (
    FILTER_KEY,
    LEASE_KEY,
    MADE_KEY,
    generations_key,
    mark_key,
    ticket_key,
    window_key,
)
from ibex.adapters.redis.known_tokens import RedisKnownTokens
from ibex.adapters.redis.link import LinkError, RedisLink
from ibex.adapters.redis.rate_limits import RedisRateLimiter
from ibex.adapters.redis.urls import Address
from ibex.adapters.system.ids import SystemIds
from ibex.domain.announce import BoardUnavailableError
from ibex.domain.freshness import Kind
from ibex.domain.known_tokens import filter_of
from ibex.domain.rate_limits import window_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from harness.redis import RedisServer

pytestmark = pytest.mark.integration

ORG = uuid4()
CANARY = "canary-password"
AFTER_A_PAUSE = timedelta(seconds=PAUSE_S, milliseconds=1)


class Worker:
    """A worker's way to one server, with a clock that stands still."""

    def __init__(self, server: RedisServer, timeout_s: float = 0.05) -> None:
        self.clock = ManualClock()
        self.heard = RecordingRedisObserver()
        self.link = RedisLink(server.url, self.clock, self.heard, timeout_s=timeout_s)
        self.limiter = RedisRateLimiter(self.link, self.clock, SystemIds())
        self.known = RedisKnownTokens(self.link)

    async def count(self) -> int:
        """Count a request."""
        return (await self.limiter.count(ORG, self.clock.now())).count


@pytest.fixture
async def worker(redis_server: RedisServer) -> AsyncIterator[Worker]:
    """A worker, connected, with time for everything."""
    made = Worker(redis_server, timeout_s=5.0)
    await made.link.open()
    yield made
    await made.link.close()


@pytest.fixture
async def board(redis_server: RedisServer) -> AsyncIterator[RedisBoard]:
    """Auth's side of it."""
    made = RedisBoard(redis_server.url, SystemIds())
    yield made
    await made.close()


async def vouch(board: RedisBoard, *token_ids: object) -> None:
    """Make a filter and renew the lease."""
    connection = await board.connection()
    mark = await board.begin_filter(connection)
    await board.finish_filter(connection, mark, filter_of(token_ids))  # type: ignore[arg-type]  # ids, in these tests
    assert await renew(board)


async def renew(board: RedisBoard) -> bool:
    """Take a ticket and renew the lease with it, if there is one to take."""
    connection = await board.connection()
    ticket = await board.begin_turn(connection)
    return ticket is not None and await board.renew(connection, ticket)


async def test_what_is_asked_in_one_turn_is_one_round_trip(worker: Worker) -> None:
    """However many requests, of however many organizations, and whatever else is asked."""
    now = worker.clock.now()
    orgs = [uuid4() for _ in range(10)]
    await asyncio.gather(
        *(worker.limiter.count(org, now) for org in orgs * 10), worker.limiter.news(ORG), worker.known.excludes(uuid4())
    )

    assert worker.heard.trips == [102]


async def test_who_leaves_harms_nobody(worker: Worker) -> None:
    """Not even who asks the same in the same turn."""
    asking = [asyncio.create_task(worker.count()) for _ in range(3)]
    await asyncio.sleep(0)
    asking[0].cancel()
    done = await asyncio.gather(*asking, return_exceptions=True)

    assert isinstance(done[0], asyncio.CancelledError)
    assert done[1:] == [2, 3]


async def test_two_workers_count_together(redis_server: RedisServer, worker: Worker) -> None:
    """The limit is the organization's, not a worker's."""
    other = Worker(redis_server, timeout_s=5.0)
    counts = await asyncio.gather(*(w.count() for w in (worker, other) for _ in range(50)))
    await other.link.close()

    assert sorted(counts) == list(range(1, 101))


async def test_a_frozen_redis_costs_few_requests_their_bound_and_then_none(redis_server: RedisServer) -> None:
    """Requests are counted in process while a connection is made in the background, and by Redis once it answers."""
    worker = Worker(redis_server)
    await worker.link.open()
    assert await worker.count() == 1
    redis_server.pause()

    assert [await worker.count() for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    assert worker.heard.questions_failed == 1
    assert worker.heard.times_passed_over == 5
    assert (await worker.limiter.news(ORG)).lease is None

    redis_server.resume()
    await worker.link.open()
    assert await worker.count() == 3, "the request that was not answered in time was counted all the same"
    await worker.link.close()


async def test_a_redis_that_refuses_connections_opens_the_circuit_breaker(redis_server: RedisServer) -> None:
    """After the pause one request finds out how Redis does, and what comes meanwhile does not wait."""
    worker = Worker(redis_server)
    redis_server.kill()
    for _ in range(FAILURES_IN_A_ROW):
        await worker.count()
    assert (worker.heard.questions_failed, worker.heard.times_passed_over) == (FAILURES_IN_A_ROW, 0)
    await worker.count()
    assert worker.heard.times_passed_over == 1

    worker.clock.advance(AFTER_A_PAUSE)
    redis_server.start()
    probe = asyncio.create_task(worker.count())
    for _ in range(2):
        await asyncio.sleep(0)
    await worker.count()
    assert worker.heard.times_passed_over == 2

    await probe
    await worker.link.open()
    await worker.count()
    assert worker.heard.trips
    await worker.link.close()


async def test_a_redis_that_comes_back_is_used_again(redis_server: RedisServer, worker: Worker) -> None:
    """It has lost everything: counts begin anew, nobody vouches, no token is unknown."""
    await worker.count()
    redis_server.kill()
    assert await worker.count() == 1
    redis_server.start()

    assert await worker.count() == 1
    assert await worker.count() == 2
    assert not await worker.known.excludes(uuid4())


async def test_a_redis_that_was_emptied_vouches_for_nothing(
    redis_server: RedisServer, worker: Worker, board: RedisBoard
) -> None:
    """Neither lease nor filter are left, and generations are others."""
    await vouch(board)
    before = await worker.limiter.news(ORG)
    assert before.lease is not None
    redis_server.client().flushall()

    after = await worker.limiter.news(ORG)

    assert after.lease is None
    assert not set(after.generations.values()) & set(before.generations.values())
    assert not await worker.known.excludes(uuid4())
    assert not await renew(board)


async def test_a_filter_that_is_made_while_redis_is_emptied_is_not_kept(
    redis_server: RedisServer, board: RedisBoard
) -> None:
    """Tokens that were added before are not in it."""
    connection = await board.connection()
    mark = await board.begin_filter(connection)
    redis_server.client().flushall()

    assert not await board.finish_filter(connection, mark, filter_of([]))


async def test_a_lease_of_another_instance_is_none(
    redis_server: RedisServer, worker: Worker, board: RedisBoard
) -> None:
    """As after a fail-over: a replica has the lease and the filter of the one whose last second of writes it lacks."""
    await vouch(board)
    assert await worker.known.excludes(uuid4())
    client = redis_server.client()
    client.set(LEASE_KEY, "another-instance its-mark", px=60_000)
    client.set(MADE_KEY, "another-instance its-mark")

    assert (await worker.limiter.news(ORG)).lease is None
    assert not await worker.known.excludes(uuid4())
    assert not await board.add_tokens(await board.connection(), [uuid4()])
    assert not await renew(board)


async def test_an_instance_that_is_back_is_vouched_for_by_another_lease(
    redis_server: RedisServer, worker: Worker, board: RedisBoard
) -> None:
    """Under its old name it may lack what it was told before it was replaced, so nothing remembered is proven."""
    await vouch(board)
    before = (await worker.limiter.news(ORG)).lease
    redis_server.client().set(MADE_KEY, "another-instance its-mark")

    await vouch(board)

    after = (await worker.limiter.news(ORG)).lease
    assert None not in {before, after}
    assert before != after


async def test_a_lease_counts_from_its_ticket(redis_server: RedisServer, board: RedisBoard) -> None:
    """A renewal that comes late vouches for no longer, and one that comes too late not at all."""
    await vouch(board)
    client, connection = redis_server.client(), await board.connection()
    late, too_late = [await board.begin_turn(connection) for _ in range(2)]
    assert late is not None
    assert too_late is not None
    client.pexpire(ticket_key(late), 300)
    client.delete(ticket_key(too_late), LEASE_KEY)

    assert not await board.renew(connection, too_late)
    assert not client.exists(LEASE_KEY)
    assert await board.renew(connection, late)
    assert 0 < client.pttl(LEASE_KEY) <= 300


async def test_a_ticket_is_for_the_filter_that_was_there(redis_server: RedisServer, board: RedisBoard) -> None:
    """Who emptied the outbox before another was made does not know what that one lacks."""
    await vouch(board)
    connection = await board.connection()
    ticket = await board.begin_turn(connection)
    assert ticket is not None
    redis_server.client().delete(FILTER_KEY)
    mark = await board.begin_filter(connection)
    await board.finish_filter(connection, mark, filter_of([]))

    assert not await board.renew(connection, ticket)
    assert await renew(board)


async def test_a_board_that_was_cut_off_knows(redis_server: RedisServer, board: RedisBoard) -> None:
    """The connection after it is another, to another instance."""
    first = await board.connection()
    redis_server.kill()
    with pytest.raises(BoardUnavailableError):
        await board.announce(first, ORG, [Kind.TOKENS])
    with pytest.raises(BoardUnavailableError):
        await board.connection()
    redis_server.start()

    second = await board.connection()

    assert second.number > first.number
    assert second.instance != first.instance
    with pytest.raises(BoardUnavailableError):
        await board.renew(first, "ticket")


async def test_a_board_does_not_wait_for_a_frozen_redis(redis_server: RedisServer) -> None:
    """And its answer, when it comes, is nobody's."""
    board = RedisBoard(redis_server.url, SystemIds(), timeout_s=0.05)
    connection = await board.connection()
    redis_server.pause()

    with pytest.raises(BoardUnavailableError):
        await board.announce(connection, ORG, [Kind.TOKENS])
    redis_server.resume()
    with pytest.raises(BoardUnavailableError):
        await board.announce(connection, ORG, [Kind.TOKENS])
    await board.close()


async def test_a_password_is_presented_and_never_shown(redis_server: RedisServer) -> None:
    """Nor is it in the error of one who has another."""
    client = redis_server.client()
    client.config_set("requirepass", CANARY)
    right, wrong = (redis_server.url.replace("redis://", f"redis://:{word}@") for word in (CANARY, f"wrong-{CANARY}"))
    link = RedisLink(right, ManualClock(), RecordingRedisObserver())
    await link.ping()
    with pytest.raises(LinkError) as raised:
        await RedisLink(wrong, ManualClock(), RecordingRedisObserver()).ping()
    client.config_set("requirepass", "")
    await link.close()

    assert CANARY not in f"{raised.value!r} {Address.parse(right)!r} {link!r}"


async def test_what_redis_keeps_expires(redis_server: RedisServer, worker: Worker, board: RedisBoard) -> None:
    """But for the filter: another replaces it."""
    await vouch(board)
    await board.begin_filter(await board.connection())
    await board.begin_turn(await board.connection())
    await worker.count()
    client = redis_server.client()

    lasting = [key for key in client.scan_iter() if client.ttl(key) == -1]

    assert sorted(lasting) == sorted([FILTER_KEY.encode(), MADE_KEY.encode()])


def test_the_keys_of_a_script_lie_in_one_slot() -> None:
    """A Redis Cluster refuses a script otherwise."""
    of_org = {window_key(ORG, window_of(ManualClock().now())), generations_key(ORG)}
    of_all = {LEASE_KEY, FILTER_KEY, MADE_KEY, mark_key("mark"), ticket_key("ticket")}

    assert len({key_slot(key.encode()) for key in of_org}) == 1
    assert len({key_slot(key.encode()) for key in of_all}) == 1
