"""The connection that a worker's commands share, and the limits on how long their callers wait."""

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
from ibex.adapters.redis.breaker import FAILURE_THRESHOLD
from ibex.adapters.redis.epochs import ATTEMPTS
from ibex.adapters.redis.keys import epoch_key
from ibex.adapters.redis.server import MAX_IN_FLIGHT, TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from harness.redis import RedisServer
    from ibex.domain.freshness.kinds import Epoch

pytestmark = pytest.mark.integration

ORG = uuid4()
ARRIVALS = 60
GAP_S = 0.002
SLACK = 5
"""A busy machine may take this many times the timeout. Waiting for all other attempts would take ``ARRIVALS`` times."""


@pytest.fixture
async def worker(redis_server: RedisServer) -> AsyncIterator[RedisWorker]:
    """A connected worker with a long timeout."""
    made = RedisWorker(redis_server.url)
    await made.link.open()
    yield made
    await made.link.close()


async def longest_wait(worker: RedisWorker) -> float:
    """Start requests one after the other, without waiting for earlier ones. Return the longest duration in seconds."""
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
async def test_no_request_waits_for_the_attempts_of_others(redis_server: RedisServer, *, connected: bool) -> None:
    """A frozen Redis delays each request by at most its own timeout, not by the timeouts of earlier requests."""
    worker = RedisWorker(redis_server.url, timeout_s=TIMEOUT_S)
    if connected:
        await worker.link.open()
    redis_server.pause()

    waited = await longest_wait(worker)

    assert waited < SLACK * TIMEOUT_S
    assert worker.heard.questions_failed + worker.heard.times_passed_over == ARRIVALS
    await worker.link.close()


async def test_a_timeout_leaves_no_reference_cycle(redis_server: RedisServer) -> None:
    """Errors refer to the frames that raised them. Those frames must not refer to the errors."""
    worker = RedisWorker(redis_server.url, timeout_s=TIMEOUT_S)
    await worker.link.open()
    redis_server.pause()

    with finding(2) as found:
        for _ in range(FAILURE_THRESHOLD):
            await asyncio.gather(*(worker.count(uuid4()) for _ in range(ARRIVALS)))
        await worker.link.close()

    assert found == {}


async def test_a_refusal_leaves_no_reference_cycle(redis_server: RedisServer) -> None:
    """Here Redis refuses the connection itself."""
    redis_server.client().config_set("requirepass", "right")
    workers = [RedisWorker(redis_server.url.replace("redis://", "redis://kim:wrong@")) for _ in range(3)]

    with finding(2) as found:
        for worker in workers:
            await asyncio.gather(*(worker.count(uuid4()) for _ in range(FAILURE_THRESHOLD)))
            await worker.link.close()

    assert found == {}


async def test_few_round_trips_are_in_flight_at_a_time(redis_server: RedisServer, worker: RedisWorker) -> None:
    """Commands that arrive in between share the next round trip."""
    redis_server.pause()
    asking = [await worker.depart(ORG) for _ in range(10)]
    redis_server.resume()

    tallies = await asyncio.gather(*asking)

    assert worker.heard.trips == [1] * MAX_IN_FLIGHT + [10 - MAX_IN_FLIGHT]
    assert [tally.count for tally in tallies] == list(range(1, 11))


async def test_a_connection_that_breaks_is_one_failure(redis_server: RedisServer, worker: RedisWorker) -> None:
    """This holds for any number of round trips in flight. The worker uses Redis until the threshold of failures."""
    redis_server.pause()
    asking = [await worker.depart(ORG) for _ in range(MAX_IN_FLIGHT)]
    redis_server.kill()
    await asyncio.gather(*asking)

    for _ in range(FAILURE_THRESHOLD - 1):
        await worker.count(ORG)
    assert worker.heard.times_passed_over == 0
    assert len(worker.heard.failures) == MAX_IN_FLIGHT + FAILURE_THRESHOLD - 1

    await worker.count(ORG)
    assert worker.heard.times_passed_over == 1


async def test_a_request_does_not_wait_long_for_a_connection(redis_server: RedisServer) -> None:
    """All requests wait until the timeout of the first one. After that, requests do not wait for the connection."""
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
    assert (await worker.count(ORG)).epoch.was_read
    await worker.link.close()


async def test_a_late_reply_reaches_no_caller(redis_server: RedisServer) -> None:
    """The next caller gets the reply to its own command."""
    worker, other = RedisWorker(redis_server.url, timeout_s=TIMEOUT_S), uuid4()
    await worker.link.open()
    redis_server.pause()
    assert not (await worker.count(ORG)).epoch.was_read
    redis_server.resume()

    unhurried = RedisWorker(redis_server.url)
    expected = await unhurried.epochs.read_or_create(other)
    while not (epoch := await worker.limiter.epoch(other)).was_read:
        worker.clock.advance(timedelta(seconds=2))

    assert epoch.value == expected.value is not None
    await worker.link.close()
    await unhurried.link.close()


async def test_closing_the_link_completes_all_waiting_callers(redis_server: RedisServer, worker: RedisWorker) -> None:
    """This covers commands in flight and pending ones. Nothing connects again."""
    client = redis_server.client()
    connections = client.info("stats")["total_connections_received"]
    redis_server.pause()
    asking = [await worker.depart(ORG) for _ in range(MAX_IN_FLIGHT + 2)]
    await worker.link.close()

    assert sorted([tally.count for tally in await asyncio.gather(*asking)]) == [1, 2, 3, 4]
    redis_server.resume()
    assert client.info("stats")["total_connections_received"] == connections


async def test_a_closed_link_does_not_connect_again(redis_server: RedisServer, worker: RedisWorker) -> None:
    """This covers commands during and after closing: nothing would close such a connection."""
    client = redis_server.client()
    connections = client.info("stats")["total_connections_received"]
    redis_server.pause()
    asked = [await worker.depart(ORG)]
    closing = asyncio.create_task(worker.link.close())
    asked.append(await worker.depart(ORG))
    await closing
    redis_server.resume()
    asked.append(await worker.depart(ORG))

    tallies = await asyncio.gather(*asked)
    assert not any(tally.epoch.was_read for tally in tallies)
    assert client.info("stats")["total_connections_received"] == connections


async def test_the_connection_stays_open_if_all_callers_are_cancelled(worker: RedisWorker) -> None:
    """Cancelled callers are no failure of Redis."""
    asking = await worker.depart(ORG)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    assert (await worker.count(ORG)).count == 2
    assert worker.heard.failures == []


async def test_requests_of_one_iteration_are_one_script_per_organization(
    redis_server: RedisServer, worker: RedisWorker
) -> None:
    """A hundred concurrent requests are one GET, one script and one increment."""
    client = redis_server.client()
    client.config_resetstat()

    await asyncio.gather(*(worker.count(ORG) for _ in range(100)))

    stats = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in client.info("commandstats").items()}
    assert {name: stats.get(name) for name in ("get", "evalsha", "incrby")} == {"get": 1, "evalsha": 1, "incrby": 1}


async def test_redis_may_lose_the_scripts(redis_server: RedisServer, worker: RedisWorker) -> None:
    """The scripts are sent again within the same timeout. No request is counted twice or in process."""
    await worker.count(ORG)
    redis_server.client().script_flush()

    tallies = await asyncio.gather(worker.count(ORG), worker.count(ORG), worker.count(uuid4()))

    assert [tally.count for tally in tallies] == [2, 3, 1]
    assert worker.heard.failures == []


@pytest.mark.parametrize("value", [b"\xff\xfe", b"", b"x" * 100_000], ids=["no text", "nothing", "much"])
async def test_an_epoch_of_any_bytes_is_equal_to_itself_only(
    redis_server: RedisServer, worker: RedisWorker, value: bytes
) -> None:
    """An epoch is compared, never parsed. Auth and the worker read the same value."""
    client, seen = redis_server.client(), []
    for written in (value, b"another", value):
        client.set(epoch_key(ORG), written)
        seen.append((await worker.count(ORG)).epoch)

    assert seen[0].value == seen[2].value != seen[1].value
    assert seen[2].proves_change_since(seen[1], 0)
    assert not seen[2].proves_change_since(seen[0], 0)
    assert (await unhurried_reading(worker)).value == seen[2].value


async def unhurried_reading(worker: RedisWorker) -> Epoch:
    """Return the epoch that auth reads. Retry a read that a busy machine delays."""
    while not (epoch := await worker.epochs.read_or_create(ORG)).was_read:
        pass
    return epoch


async def test_an_epoch_key_of_another_type_is_an_unknown_epoch(redis_server: RedisServer, worker: RedisWorker) -> None:
    """Another program wrote the key. Requests are counted in process, auth answers, and every caller gets a reply."""
    redis_server.client().rpush(epoch_key(ORG), "junk")

    tally = await worker.count(ORG)

    assert (tally.count, tally.epoch.was_read) == (1, False)
    assert not (await worker.epochs.read_or_create(ORG)).was_read
    assert await worker.epochs.replace(ORG), "the next change writes over it"
    assert (await worker.count(ORG)).epoch.was_read


async def test_redis_holds_numbers_and_ids_and_nothing_else(redis_server: RedisServer, worker: RedisWorker) -> None:
    """The adapter never receives a token or a secret, so none can be read from Redis."""
    await worker.epochs.replace(ORG)
    await worker.count(ORG)
    client = redis_server.client()

    keys = {key.decode() for key in client.scan_iter()}

    assert {key.rpartition(":")[0] if ":rpm:" in key else key for key in keys} == {
        f"ibex:{{{ORG}}}:rpm",
        epoch_key(ORG),
    }
    value: bytes = client.get(epoch_key(ORG))  # type: ignore[assignment]  # a client that decodes nothing
    assert str(UUID(value.decode())) == value.decode()


async def test_a_wrong_password_is_an_outage(redis_server: RedisServer) -> None:
    """Requests are served, and the reason contains neither the password nor the user."""
    redis_server.client().config_set("requirepass", "right-canary")
    worker = RedisWorker(redis_server.url.replace("redis://", "redis://canary-user:wrong-canary@"))

    assert [(await worker.count(ORG)).count for _ in range(4)] == [1, 2, 3, 4]

    assert worker.heard.failures == ["refused (WRONGPASS)"] * FAILURE_THRESHOLD
    assert worker.heard.times_passed_over == 1
    await worker.link.close()


async def test_a_url_may_name_user_and_database(redis_server: RedisServer) -> None:
    """The test uses a user with the needed permissions, and another database."""
    client = redis_server.client()
    client.acl_setuser("kim", enabled=True, passwords=["+s3:cret"], keys=["ibex:*"], categories=["+@all"])
    worker = RedisWorker(redis_server.url.replace("redis://", "redis://kim:s3%3Acret@").replace("/0", "/3"))

    assert (await worker.count(ORG)).epoch.was_read

    assert set(client.info("keyspace")) == {"db3"}
    await worker.link.close()


async def test_a_url_may_name_a_unix_socket(redis_server: RedisServer, tmp_path: Path) -> None:
    """This is for a Redis on the same machine."""
    redis_server.kill()
    redis_server.start("--unixsocket", str(tmp_path / "s"))
    worker = RedisWorker(f"unix://{tmp_path / 's'}")

    assert (await worker.count(ORG)).epoch.was_read
    await worker.link.close()


async def test_tls_requires_trust_in_the_ca(redis_server: RedisServer, tmp_path: Path) -> None:
    """With a private CA in the URL it connects. Without it, this is an outage, and nothing is sent in plaintext."""
    authority, trusted = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    async with tls_front(authority, redis_server.port) as port:
        knows = RedisWorker(f"rediss://{HOST}:{port}?ssl_ca_certs={quote(str(trusted))}")
        doubts = RedisWorker(f"rediss://{HOST}:{port}")
        sent = await knows.count(ORG)
        kept = await doubts.count(ORG)
        await knows.link.close()
        await doubts.link.close()

    assert sent.epoch.was_read
    assert (kept.count, kept.epoch.was_read) == (1, False)
    assert doubts.heard.failures == ["cannot connect (SSLCertVerificationError)"]


async def test_no_change_waits_for_the_epochs_of_others(redis_server: RedisServer) -> None:
    """Replacing an epoch in a frozen Redis fails within the timeouts of its own attempts."""
    admin, loop = RedisWorker(redis_server.url, timeout_s=TIMEOUT_S), asyncio.get_running_loop()
    redis_server.pause()
    began = loop.time()

    replaced = await asyncio.gather(*(admin.epochs.replace(uuid4()) for _ in range(ARRIVALS)))

    assert loop.time() - began < SLACK * ATTEMPTS * TIMEOUT_S
    assert replaced == [False] * ARRIVALS
    await admin.link.close()
