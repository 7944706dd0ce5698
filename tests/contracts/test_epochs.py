"""The contract of ``Epochs``, and of the rate limiter that reads the same epochs."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from harness.memory.clock import ManualClock
from harness.memory.epochs import InMemoryEpochs
from harness.redis_worker import RedisWorker
from ibex.adapters.memory.epochs import NoEpochs
from ibex.adapters.memory.rate_limits import InMemoryRateLimiter
from ibex.adapters.redis.epochs import READ_TIMEOUT_S
from ibex.adapters.redis.keys import EPOCH_TTL_S, epoch_key
from ibex.adapters.system.clock import SystemClock
from ibex.adapters.system.file_epochs import FileEpochs
from ibex.adapters.system.ids import SystemIds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from harness.redis import RedisServer
    from harness.redis_topologies import ClusterScene
    from ibex.domain.freshness.epochs import Epochs
    from ibex.domain.identity.rate_limits import RateLimiter

NOW = ManualClock().now()
TRIES = 20
"""Of so many readings that are bounded, the fastest shows the bound on a busy machine."""


@dataclass
class Store:
    """The epochs as auth uses them, and the rate limiter of a worker on the same store."""

    epochs: Epochs
    limiter: RateLimiter


@pytest.fixture(
    params=[
        "memory",
        "file",
        pytest.param("redis", marks=pytest.mark.integration),
        pytest.param("cluster", marks=pytest.mark.integration),
    ]
)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Each store in turn."""
    if request.param == "memory":
        epochs = InMemoryEpochs(ManualClock(), SystemIds())
        yield Store(epochs, InMemoryRateLimiter(epochs))
        return
    if request.param == "file":
        one, other = (FileEpochs(tmp_path / "epoch", SystemClock(), SystemIds()) for _ in range(2))
        with one, other:
            yield Store(one, InMemoryRateLimiter(other))
        return
    url = _cluster_url(request) if request.param == "cluster" else request.getfixturevalue("redis_url")
    auth, worker = (RedisWorker(url, clock=SystemClock()) for _ in range(2))
    for link in (auth.link, worker.link):
        await link.open()
    await _warm_up(auth)
    yield Store(auth.epochs, worker.limiter)
    for link in (auth.link, worker.link):
        await link.close()


def _cluster_url(request: pytest.FixtureRequest) -> str:
    cluster: ClusterScene = request.getfixturevalue("cluster")
    cluster.settle()
    return cluster.url


async def _warm_up(auth: RedisWorker) -> None:
    """Load the scripts into the servers first: 10 ms are too short for that on a busy machine."""
    for _ in range(TRIES):
        await auth.epochs.read_or_create(uuid4())


async def read(epochs: Epochs, org_id: UUID) -> str:
    """Return the epoch, and retry if a busy machine delays the read."""
    for _ in range(TRIES):
        epoch = await epochs.read_or_create(org_id)
        if epoch.was_read:
            assert epoch.value is not None
            return epoch.value
    raise AssertionError("the epoch is never read in time")


@pytest.fixture
def org() -> UUID:
    """An organization that has no epoch yet."""
    return uuid4()


async def test_an_epoch_is_created_once(store: Store, org: UUID) -> None:
    """The first read creates it. Two organizations never have the same epoch."""
    assert (await store.limiter.epoch(org)).value is None

    first = await read(store.epochs, org)

    assert {await read(store.epochs, org) for _ in range(3)} == {first}
    assert await read(store.epochs, uuid4()) != first


async def test_concurrent_reads_create_one_epoch(store: Store, org: UUID) -> None:
    """Each read proposes a value, and the store keeps one of them."""
    values = await asyncio.gather(*(read(store.epochs, org) for _ in range(20)))

    assert set(values) == {await read(store.epochs, org)}


async def test_a_replaced_epoch_never_comes_back(store: Store, org: UUID) -> None:
    """Every replacement creates a new value, for an organization with or without an epoch."""
    seen = []
    for _ in range(5):
        assert await store.epochs.replace(org)
        seen.append(await read(store.epochs, org))

    assert len(set(seen)) == 5


async def test_the_rate_limiter_and_auth_read_the_same_epoch(store: Store, org: UUID) -> None:
    """The epochs match before and after a replacement, whether or not a request is counted."""
    for _ in range(2):
        value = await read(store.epochs, org)

        counted, asked = (await store.limiter.count(org, NOW)).epoch, await store.limiter.epoch(org)

        assert (counted.value, counted.was_read) == (asked.value, asked.was_read) == (value, True)
        assert await store.epochs.replace(org)


async def test_a_replacement_proves_a_change_at_the_next_request(store: Store, org: UUID) -> None:
    """A worker that fetched before the replacement detects the change. Without a replacement it detects none."""
    await read(store.epochs, org)
    fetched = await store.limiter.epoch(org)
    before = (await store.limiter.count(org, NOW)).epoch
    await store.epochs.replace(org)

    after = (await store.limiter.count(org, NOW)).epoch

    assert not before.proves_change_since(fetched, fetched.asked_ns)
    assert after.proves_change_since(fetched, fetched.asked_ns)


async def test_a_process_without_a_store_has_unknown_epochs(org: UUID) -> None:
    """Only the watch delivers changes to such a process."""
    epochs = NoEpochs(ManualClock())

    assert not (await epochs.read_or_create(org)).was_read
    assert not await epochs.replace(org)


@pytest.mark.integration
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "never connected"])
async def test_auth_waits_10_ms_for_a_redis_that_hangs(
    redis_server: RedisServer, org: UUID, *, connected: bool
) -> None:
    """Auth returns an unknown epoch to the proxy, and reads the epoch again once Redis recovers."""
    auth = RedisWorker(redis_server.url, clock=SystemClock())
    if connected:
        await auth.link.open()
    redis_server.pause()

    await _assert_unknown_within_10_ms(auth.epochs, org)

    redis_server.resume()
    await auth.link.open()
    assert await read(auth.epochs, org)
    await auth.link.close()


@pytest.mark.integration
async def test_auth_waits_10_ms_for_a_primary_that_hangs(cluster: ClusterScene) -> None:
    """Organizations of the other primaries keep their epochs."""
    cluster.settle()
    org = uuid4()
    hanging = cluster.primary_of(org)
    other = next(one for one in iter(uuid4, None) if cluster.primary_of(one) is not hanging)
    auth = RedisWorker(cluster.url, clock=SystemClock())
    await auth.link.open()
    await _warm_up(auth)
    hanging.pause()
    try:
        await _assert_unknown_within_10_ms(auth.epochs, org)
        assert await read(auth.epochs, other)
    finally:
        hanging.resume()
        await auth.link.close()


async def _assert_unknown_within_10_ms(epochs: Epochs, org: UUID) -> None:
    waited = []
    for _ in range(3):
        began = time.monotonic()
        epoch = await epochs.read_or_create(org)
        waited.append(time.monotonic() - began)
        assert (epoch.value, epoch.was_read) == (None, False)

    assert min(waited) < 3 * READ_TIMEOUT_S
    assert max(waited) < 1.0, "the link's own limit is ten seconds"


@pytest.mark.integration
async def test_an_epoch_in_redis_expires(redis_server: RedisServer, org: UUID) -> None:
    """A created or replaced epoch expires within a day. An expired epoch is absent."""
    auth, client = RedisWorker(redis_server.url, clock=SystemClock()), redis_server.client()
    await auth.link.open()
    await read(auth.epochs, org)
    assert 0 < client.ttl(epoch_key(org)) <= EPOCH_TTL_S
    await auth.epochs.replace(org)
    assert 0 < client.ttl(epoch_key(org)) <= EPOCH_TTL_S

    client.delete(epoch_key(org))

    epoch = await auth.limiter.epoch(org)
    assert (epoch.value, epoch.was_read) == (None, True)
    await auth.link.close()
