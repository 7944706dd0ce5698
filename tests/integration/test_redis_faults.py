"""Redis is killed, frozen, emptied and restarted. Commands share its round trips."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from redis.crc import key_slot

from harness.memory.clock import ManualClock
from harness.redis_observer import RecordingRedisObserver
from ibex.adapters.redis.breaker import FAILURE_THRESHOLD, OPEN_FOR_S
from ibex.adapters.redis.epochs import RedisEpochs
from ibex.adapters.redis.keys import directive_key, epoch_key, window_key
from ibex.adapters.redis.link import LinkError, RedisLink
from ibex.adapters.redis.rate_limits import RedisRateLimiter
from ibex.adapters.redis.urls import RedisAddress
from ibex.adapters.system.ids import SystemIds
from ibex.domain.identity.rate_limits import window_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from harness.redis import RedisServer

pytestmark = pytest.mark.integration

ORG = uuid4()
CANARY = "canary-password"
AFTER_A_PAUSE = timedelta(seconds=OPEN_FOR_S, milliseconds=1)


class Worker:
    """A worker's link to one server, with a clock that stands still."""

    def __init__(self, server: RedisServer, timeout_s: float = 0.05) -> None:
        self.clock = ManualClock()
        self.heard = RecordingRedisObserver()
        self.link = RedisLink(server.url, self.clock, self.heard, timeout_s=timeout_s)
        self.limiter = RedisRateLimiter(self.link, self.clock)
        self.epochs = RedisEpochs(self.link, self.clock, SystemIds())

    async def count(self) -> int:
        """Count a request."""
        return (await self.limiter.count(ORG, self.clock.now())).count


@pytest.fixture
async def worker(redis_server: RedisServer) -> AsyncIterator[Worker]:
    """A connected worker with a long timeout."""
    made = Worker(redis_server, timeout_s=5.0)
    await made.link.open()
    yield made
    await made.link.close()


async def test_commands_of_one_iteration_share_a_round_trip(worker: Worker) -> None:
    """This holds for any number of requests and organizations, and for other commands."""
    now = worker.clock.now()
    orgs = [uuid4() for _ in range(10)]
    await asyncio.gather(
        *(worker.limiter.count(org, now) for org in orgs * 10), worker.limiter.epoch(ORG), worker.epochs.replace(ORG)
    )

    assert worker.heard.trips == [102]


async def test_a_cancelled_caller_does_not_affect_others(worker: Worker) -> None:
    """Callers of the same command in the same iteration are not affected either."""
    asking = [asyncio.create_task(worker.count()) for _ in range(3)]
    await asyncio.sleep(0)
    asking[0].cancel()
    done = await asyncio.gather(*asking, return_exceptions=True)

    assert isinstance(done[0], asyncio.CancelledError)
    assert done[1:] == [2, 3]


async def test_two_workers_count_together(redis_server: RedisServer, worker: Worker) -> None:
    """The limit applies to the organization, not to each worker."""
    other = Worker(redis_server, timeout_s=5.0)
    counts = await asyncio.gather(*(w.count() for w in (worker, other) for _ in range(50)))
    await other.link.close()

    assert sorted(counts) == list(range(1, 101))


async def test_a_frozen_redis_delays_few_requests_by_their_timeout(redis_server: RedisServer) -> None:
    """While a connection is made in the background, requests are counted in process. Then Redis counts them again."""
    worker = Worker(redis_server)
    await worker.link.open()
    assert await worker.count() == 1
    redis_server.pause()

    assert [await worker.count() for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    assert worker.heard.questions_failed == 1
    assert worker.heard.times_passed_over == 5
    assert not (await worker.limiter.epoch(ORG)).was_read

    redis_server.resume()
    await worker.link.open()
    assert await worker.count() == 3, "the request that was not answered in time was counted all the same"
    await worker.link.close()


async def test_a_redis_that_refuses_connections_opens_the_circuit_breaker(redis_server: RedisServer) -> None:
    """After the pause, one request probes Redis. Other requests do not wait for it."""
    worker = Worker(redis_server)
    redis_server.kill()
    for _ in range(FAILURE_THRESHOLD):
        await worker.count()
    assert (worker.heard.questions_failed, worker.heard.times_passed_over) == (FAILURE_THRESHOLD, 0)
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
    """Redis has lost everything: counts begin at one, and no organization has an epoch."""
    await worker.epochs.replace(ORG)
    await worker.count()
    redis_server.kill()
    assert await worker.count() == 1
    redis_server.start()

    assert await worker.count() == 1
    assert await worker.count() == 2
    epoch = await worker.limiter.epoch(ORG)
    assert (epoch.value, epoch.was_read) == (None, True)


async def test_a_redis_that_was_emptied_proves_nothing(redis_server: RedisServer, worker: Worker) -> None:
    """An absent epoch proves nothing. The next one differs from every epoch that was read before."""
    await worker.epochs.replace(ORG)
    before = await worker.limiter.epoch(ORG)
    redis_server.client().flushall()

    emptied = await worker.limiter.epoch(ORG)
    await worker.epochs.replace(ORG)
    created = await worker.limiter.epoch(ORG)

    assert (emptied.value, emptied.was_read) == (None, True)
    assert not emptied.proves_change_since(before, before.asked_ns)
    assert created.proves_change_since(before, before.asked_ns)
    assert created.proves_change_since(emptied, emptied.asked_ns)


async def test_a_change_reaches_a_redis_that_closed_the_connection(redis_server: RedisServer, worker: Worker) -> None:
    """Administration rarely replaces an epoch, so its connection is idle for hours."""
    await worker.epochs.replace(ORG)
    redis_server.client().client_kill_filter(_type="normal", skipme=True)

    assert await worker.epochs.replace(ORG)
    assert worker.heard.failures == []


async def test_a_password_is_sent_and_never_shown(redis_server: RedisServer) -> None:
    """The error for a wrong password does not contain it either."""
    client = redis_server.client()
    client.config_set("requirepass", CANARY)
    right, wrong = (redis_server.url.replace("redis://", f"redis://:{word}@") for word in (CANARY, f"wrong-{CANARY}"))
    link = RedisLink(right, ManualClock(), RecordingRedisObserver())
    await link.ping()
    with pytest.raises(LinkError) as raised:
        await RedisLink(wrong, ManualClock(), RecordingRedisObserver()).ping()
    client.config_set("requirepass", "")
    await link.close()

    assert CANARY not in f"{raised.value!r} {RedisAddress.parse(right)!r} {link!r}"


async def test_all_keys_expire(redis_server: RedisServer, worker: Worker) -> None:
    """This covers counts and epochs. The contract suite of shared directives covers theirs."""
    await worker.count()
    await asyncio.gather(worker.epochs.replace(ORG), worker.epochs.read_or_create(uuid4()))
    client = redis_server.client()

    keys = list(client.scan_iter())

    assert len(keys) == 3
    assert [key for key in keys if client.ttl(key) == -1] == []


def test_the_keys_of_an_organization_are_in_one_slot() -> None:
    """Otherwise a Redis Cluster refuses a script."""
    keys = {window_key(ORG, window_of(ManualClock().now())), epoch_key(ORG), directive_key(ORG, uuid4(), "name")}

    assert len(keys) == 3
    assert len({key_slot(key.encode()) for key in keys}) == 1
