"""How a worker shares its way to Redis, and how long anybody waits there, whatever Redis does."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest
import trustme

from harness.garbage import finding
from harness.redis_worker import RedisWorker
from harness.tls_front import HOST, tls_front
from ibex.adapters.redis.board import RedisBoard
from ibex.adapters.redis.breaker import FAILURES_IN_A_ROW
from ibex.adapters.redis.keys import LEASE_KEY, generations_key
from ibex.adapters.redis.server import MOST_UNDER_WAY, TIMEOUT_S
from ibex.adapters.system.ids import SystemIds
from ibex.domain.announce import BoardUnavailableError
from ibex.domain.freshness import Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from harness.redis import RedisServer

pytestmark = pytest.mark.integration

ORG = uuid4()
ARRIVALS = 60
GAP_S = 0.002
SLACK = 5
"""A busy machine may take so many times the bound; to wait for all the others' attempts is ``ARRIVALS`` times it."""


@pytest.fixture
async def worker(redis_server: RedisServer) -> AsyncIterator[RedisWorker]:
    """A worker, connected, with time for everything."""
    made = RedisWorker(redis_server.url)
    await made.link.open()
    yield made
    await made.link.close()


async def longest_wait(worker: RedisWorker) -> float:
    """Have requests come one after the other, not waiting for each other; return what the slowest took, in seconds."""
    loop = asyncio.get_running_loop()

    async def ask(due: float) -> float:
        began = loop.create_future()
        loop.call_at(due, began.set_result, None)
        await began
        asked = loop.time()
        await worker.count(uuid4())
        return loop.time() - asked

    start = loop.time()
    return max(await asyncio.gather(*(ask(start + n * GAP_S) for n in range(ARRIVALS))))


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "never connected"])
async def test_nobody_waits_for_the_attempts_of_others(redis_server: RedisServer, *, connected: bool) -> None:
    """A frozen Redis costs each request its bound at most, not the bound of all who came before as well."""
    worker = RedisWorker(redis_server.url, timeout_s=TIMEOUT_S)
    if connected:
        await worker.link.open()
    redis_server.pause()

    waited = await longest_wait(worker)

    assert waited < SLACK * TIMEOUT_S
    assert worker.heard.questions_failed + worker.heard.times_passed_over == ARRIVALS
    await worker.link.close()


async def test_what_is_not_answered_leaves_no_cycle(redis_server: RedisServer) -> None:
    """Nor do the attempts: errors lead to the frames that they went through, which must not lead back to them."""
    worker = RedisWorker(redis_server.url, timeout_s=TIMEOUT_S)
    await worker.link.open()
    redis_server.pause()

    with finding(2) as found:
        for _ in range(FAILURES_IN_A_ROW):
            await asyncio.gather(*(worker.count(uuid4()) for _ in range(ARRIVALS)))
        await worker.link.close()

    assert found == {}


async def test_what_is_refused_leaves_no_cycle(redis_server: RedisServer) -> None:
    """Here the connection itself, at its first words."""
    redis_server.client().config_set("requirepass", "right")
    workers = [RedisWorker(redis_server.url.replace("redis://", "redis://kim:wrong@")) for _ in range(3)]

    with finding(2) as found:
        for worker in workers:
            await asyncio.gather(*(worker.count(uuid4()) for _ in range(FAILURES_IN_A_ROW)))
            await worker.link.close()

    assert found == {}


async def test_few_round_trips_are_under_way_at_a_time(redis_server: RedisServer, worker: RedisWorker) -> None:
    """What is asked meanwhile goes out together, as soon as there is a place."""
    redis_server.pause()
    asking = [await worker.depart(ORG) for _ in range(10)]
    redis_server.resume()

    tallies = await asyncio.gather(*asking)

    assert worker.heard.trips == [1] * MOST_UNDER_WAY + [10 - MOST_UNDER_WAY]
    assert [tally.count for tally in tallies] == list(range(1, 11))


async def test_a_connection_that_breaks_is_one_failure(redis_server: RedisServer, worker: RedisWorker) -> None:
    """However many round trips are under way on it: Redis is asked again, until it has failed often enough."""
    redis_server.pause()
    asking = [await worker.depart(ORG) for _ in range(MOST_UNDER_WAY)]
    redis_server.kill()
    await asyncio.gather(*asking)

    for _ in range(FAILURES_IN_A_ROW - 1):
        await worker.count(ORG)
    assert worker.heard.times_passed_over == 0
    assert len(worker.heard.failures) == MOST_UNDER_WAY + FAILURES_IN_A_ROW - 1

    await worker.count(ORG)
    assert worker.heard.times_passed_over == 1


async def test_who_asks_while_a_connection_is_made_does_not_wait_long(redis_server: RedisServer) -> None:
    """Within the time limit of the attempt's first request all wait for it; after that nobody waits for the rest."""
    worker, loop = RedisWorker(redis_server.url, timeout_s=TIMEOUT_S), asyncio.get_running_loop()
    redis_server.pause()
    asking = [await worker.depart(ORG) for _ in range(3)]
    tallies = await asyncio.gather(*asking)
    turned_away = loop.time()
    tallies += [await worker.count(ORG) for _ in range(ARRIVALS)]

    assert loop.time() - turned_away < ARRIVALS * TIMEOUT_S / 2
    assert [tally.count for tally in tallies] == list(range(1, ARRIVALS + 4))
    assert worker.heard.times_passed_over == ARRIVALS + 3

    redis_server.resume()
    await worker.link.open()
    assert (await worker.count(ORG)).news.generations
    await worker.link.close()


async def test_a_late_answer_is_nobodys(redis_server: RedisServer) -> None:
    """Who asks next gets the answer to its own question."""
    worker, other = RedisWorker(redis_server.url, timeout_s=TIMEOUT_S), uuid4()
    await worker.link.open()
    redis_server.pause()
    assert (await worker.count(ORG)).news.generations == {}
    redis_server.resume()

    unhurried = RedisWorker(redis_server.url)
    expected = (await unhurried.count(other)).news.generations
    while not (news := await worker.limiter.news(other)).generations:
        worker.clock.advance(timedelta(seconds=2))

    assert news.generations == expected
    await worker.link.close()
    await unhurried.link.close()


async def test_who_waits_when_the_link_is_closed_is_answered(redis_server: RedisServer, worker: RedisWorker) -> None:
    """What is under way and what waits for a place; nothing connects anew."""
    client = redis_server.client()
    connections = client.info("stats")["total_connections_received"]
    redis_server.pause()
    asking = [await worker.depart(ORG) for _ in range(MOST_UNDER_WAY + 2)]
    await worker.link.close()

    assert sorted([tally.count for tally in await asyncio.gather(*asking)]) == [1, 2, 3, 4]
    redis_server.resume()
    assert client.info("stats")["total_connections_received"] == connections


async def test_when_all_who_asked_have_left_the_connection_is_kept(worker: RedisWorker) -> None:
    """Clients that leave are no failure of Redis."""
    asking = await worker.depart(ORG)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    assert (await worker.count(ORG)).count == 2
    assert worker.heard.failures == []


async def test_a_turns_requests_are_one_script_of_an_organization(
    redis_server: RedisServer, worker: RedisWorker
) -> None:
    """A hundred requests at once are one GET, one script and one increment."""
    client = redis_server.client()
    client.config_resetstat()

    await asyncio.gather(*(worker.count(ORG) for _ in range(100)))

    stats = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in client.info("commandstats").items()}
    assert {name: stats.get(name) for name in ("get", "evalsha", "incrby")} == {"get": 1, "evalsha": 1, "incrby": 1}


async def test_redis_may_forget_the_scripts(redis_server: RedisServer, worker: RedisWorker) -> None:
    """It is sent them again, within the same time limit; nothing is counted twice or in process."""
    await worker.count(ORG)
    redis_server.client().script_flush()

    tallies = await asyncio.gather(worker.count(ORG), worker.count(ORG), worker.count(uuid4()))

    assert [tally.count for tally in tallies] == [2, 3, 1]
    assert worker.heard.failures == []


@pytest.mark.parametrize("junk", [b"\xff\xfe", b"", b"x" * 100_000], ids=["no text", "nothing", "much"])
async def test_a_lease_that_is_none_vouches_for_nothing(
    redis_server: RedisServer, worker: RedisWorker, junk: bytes
) -> None:
    """And leaves nobody waiting."""
    redis_server.client().set(LEASE_KEY, junk)

    tally = await worker.count(ORG)

    assert (tally.count, tally.news.lease) == (1, None)


async def test_a_generation_of_any_bytes_is_equal_to_itself_only(
    redis_server: RedisServer, worker: RedisWorker
) -> None:
    """It is compared, never read."""
    client, seen = redis_server.client(), []
    for value in (b"\xff", b"\xfe", b"\xff"):
        client.hset(generations_key(ORG), Kind.TOKENS, value)
        seen.append((await worker.limiter.news(ORG)).generations[Kind.TOKENS])

    assert seen[0] == seen[2] != seen[1]


async def test_redis_holds_numbers_and_ids_and_nothing_else(redis_server: RedisServer, worker: RedisWorker) -> None:
    """No token and no secret could be read there: nobody gives the adapter any."""
    token_id = uuid4()
    await worker.count(ORG)
    await worker.known.excludes(token_id)
    client = redis_server.client()

    keys = {key.decode() for key in client.scan_iter()}
    values: list[bytes] = client.hvals(generations_key(ORG))  # type: ignore[assignment]  # a client that decodes nothing

    assert {key.rpartition(":")[0] if ":rpm:" in key else key for key in keys} == {
        f"ibex:{{{ORG}}}:rpm",
        generations_key(ORG),
    }
    assert all(UUID(value.decode()) for value in values)


async def test_a_wrong_password_is_an_outage_like_any_other(redis_server: RedisServer) -> None:
    """Requests are served, and the reason names neither the password nor the user."""
    redis_server.client().config_set("requirepass", "right-canary")
    worker = RedisWorker(redis_server.url.replace("redis://", "redis://canary-user:wrong-canary@"))

    assert [(await worker.count(ORG)).count for _ in range(4)] == [1, 2, 3, 4]

    assert worker.heard.failures == ["refused (WRONGPASS)"] * FAILURES_IN_A_ROW
    assert worker.heard.times_passed_over == 1
    await worker.link.close()


async def test_a_url_may_name_user_and_database(redis_server: RedisServer) -> None:
    """A user that may do what is needed, in a database of its own."""
    client = redis_server.client()
    client.acl_setuser("kim", enabled=True, passwords=["+s3:cret"], keys=["ibex:*"], categories=["+@all"])
    worker = RedisWorker(redis_server.url.replace("redis://", "redis://kim:s3%3Acret@").replace("/0", "/3"))

    assert (await worker.count(ORG)).news.generations

    assert set(client.info("keyspace")) == {"db3"}
    await worker.link.close()


async def test_a_url_may_name_a_unix_socket(redis_server: RedisServer, tmp_path: Path) -> None:
    """For a Redis on the same machine."""
    redis_server.kill()
    redis_server.start("--unixsocket", str(tmp_path / "s"))
    worker = RedisWorker(f"unix://{tmp_path / 's'}")

    assert (await worker.count(ORG)).news.generations
    await worker.link.close()


async def test_tls_is_for_who_trusts_the_authority(redis_server: RedisServer, tmp_path: Path) -> None:
    """With a private authority in the URL it connects; without, it is an outage, and nothing goes out in the clear."""
    authority, trusted = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    async with tls_front(authority, redis_server.port) as port:
        knows = RedisWorker(f"rediss://{HOST}:{port}?ssl_ca_certs={quote(str(trusted))}")
        doubts = RedisWorker(f"rediss://{HOST}:{port}")
        sent = await knows.count(ORG)
        kept = await doubts.count(ORG)
        await knows.link.close()
        await doubts.link.close()

    assert sent.news.generations
    assert (kept.count, kept.news.generations) == (1, {})
    assert doubts.heard.failures == ["cannot connect (SSLCertVerificationError)"]


async def test_nobody_waits_for_anothers_connecting_to_the_board(redis_server: RedisServer) -> None:
    """Each change that is announced to a frozen Redis fails within its own bound."""
    board, loop = RedisBoard(redis_server.url, SystemIds(), timeout_s=TIMEOUT_S), asyncio.get_running_loop()
    redis_server.pause()
    began = loop.time()

    failed = await asyncio.gather(*(board.connection() for _ in range(ARRIVALS)), return_exceptions=True)

    assert loop.time() - began < SLACK * TIMEOUT_S
    assert {type(error) for error in failed} == {BoardUnavailableError}
