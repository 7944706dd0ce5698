"""Redis with TLS and an ACL, with latency, behind Sentinel and as a Cluster. Every request is counted somewhere."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest
import trustme
from redis.crc import key_slot

from harness.admission_scene import AdmissionScene, Tenant
from harness.chat_scene import DIRECTIVE
from harness.memory.clock import ManualClock
from harness.redis_worker import UNHURRIED_S, RedisWorker
from harness.relay import Relay
from harness.tls_front import HOST, tls_front
from ibex.adapters.redis.keys import window_key
from ibex.adapters.redis.link import RedisLink
from ibex.adapters.redis.server import TIMEOUT_S
from ibex.adapters.system.clock import SystemClock
from ibex.domain.directives.shared import SharedDirective
from ibex.domain.errors import InvalidTokenError
from ibex.domain.freshness.kinds import BOUND_S
from ibex.domain.identity.rate_limits import window_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from harness.redis import RedisServer
    from harness.redis_topologies import ClusterScene, SentinelScene

pytestmark = pytest.mark.integration

ORG = uuid4()
EPOCH, FOUND = "an epoch", SharedDirective(DIRECTIVE)
CLIENTS = 4
SLACK = 10
"""A busy machine may take this many times the timeout. No request waits for a fail-over, which takes longer."""
EVENT_S = 30.0


@dataclass
class Load:
    """Clients that send requests one after the other. ``counts`` has Redis' counts of each organization, in order."""

    worker: RedisWorker
    counts: dict[UUID, list[int]] = field(default_factory=dict)
    in_process: dict[UUID, int] = field(default_factory=dict)
    slowest_s: float = 0.0
    _advanced: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, org_id: UUID) -> None:
        """Send requests until cancelled. An error ends the task and fails the test."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            tally = await self.worker.count(org_id)
            self.slowest_s = max(self.slowest_s, loop.time() - began)
            if tally.epoch.was_read:
                self.counts.setdefault(org_id, []).append(tally.count)
            else:
                self.in_process[org_id] = self.in_process.get(org_id, 0) + 1
            self._advanced.set()
            await asyncio.sleep(0.001)  # the pause between two requests of a client

    async def more(self, org_id: UUID, requests: int = 20) -> None:
        """Wait until Redis has counted this many more requests of the organization."""
        wanted = len(self.counts.get(org_id, ())) + requests
        await self._until(lambda: len(self.counts.get(org_id, ())) >= wanted)

    async def counts_in_process(self, org_id: UUID) -> None:
        """Wait until another request of the organization has been counted in process."""
        before = self.in_process.get(org_id, 0)
        await self._until(lambda: self.in_process.get(org_id, 0) > before)

    async def _until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(EVENT_S):
            while not reached():
                self._advanced.clear()
                await self._advanced.wait()


@asynccontextmanager
async def load(url: str, *orgs: UUID) -> AsyncIterator[Load]:
    """Run clients of each organization on a worker with a real clock."""
    worker = RedisWorker(url, timeout_s=TIMEOUT_S, clock=SystemClock())
    await worker.link.open()
    running = Load(worker)
    tasks = [asyncio.create_task(running.run(org_id)) for org_id in orgs for _ in range(CLIENTS)]
    try:
        yield running
        assert not [task for task in tasks if task.done()], "a request failed"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await worker.link.close()


async def test_a_killed_primary_is_replaced_by_the_new_one_of_the_sentinels(sentinels: SentinelScene) -> None:
    """No request fails or waits. Requests are counted in process during the fail-over, then by the new primary."""
    sentinels.settle()
    async with load(sentinels.url, ORG) as running:
        await running.more(ORG)
        killed = sentinels.primary()
        killed.kill()
        await running.counts_in_process(ORG)
        await running.more(ORG)

        assert sentinels.primary() is not killed
    assert running.slowest_s < SLACK * TIMEOUT_S


async def test_a_sentinel_that_hangs_is_skipped(sentinels: SentinelScene) -> None:
    """The worker asks another Sentinel within the connect timeout."""
    sentinels.settle()
    worker = RedisWorker(sentinels.url)
    sentinels.sentinels[0].pause()
    try:
        await worker.link.open()
        assert (await worker.count(uuid4())).count == 1
    finally:
        sentinels.sentinels[0].resume()
        await worker.link.close()


async def test_a_worker_leaves_a_primary_that_is_replaced_while_it_runs(sentinels: SentinelScene) -> None:
    """The worker switches soon, although the old primary accepts writes for 10 s more. No request fails or waits."""
    sentinels.settle()
    before = sentinels.primary()
    async with load(sentinels.url, ORG) as running:
        await running.more(ORG)
        await asyncio.to_thread(sentinels.fail_over)
        async with asyncio.timeout(EVENT_S):
            while sentinels.primary() is before:
                await running.more(ORG, 1)
        key = window_key(ORG, window_of(running.worker.clock.now()))
        after = sentinels.primary().client()
        counted = after.get(key)
        async with asyncio.timeout(EVENT_S):
            while after.get(key) == counted:
                await running.more(ORG, 1)
    assert running.slowest_s < SLACK * TIMEOUT_S


async def test_a_replica_is_not_used_as_the_primary(redis_server: RedisServer) -> None:
    """It refuses to write. The connection is closed, and the next one asks the Sentinels again."""
    worker = RedisWorker(redis_server.url)
    assert (await worker.count(ORG)).epoch.was_read
    redis_server.client().replicaof("127.0.0.1", "1")
    connections = redis_server.client().info("stats")["total_connections_received"]

    assert (await worker.count(ORG)).count == 1
    redis_server.client().replicaof("NO", "ONE")
    assert (await worker.count(ORG)).count == 2

    assert redis_server.client().info("stats")["total_connections_received"] > connections
    assert len(worker.heard.failures) == 1
    await worker.link.close()


def orgs_by_shard(cluster: ClusterScene) -> list[UUID]:
    """Return one organization for each primary."""
    found: dict[int, UUID] = {}
    while len(found) < 3:
        org_id = uuid4()
        found[cluster.primary_of(org_id).port] = org_id
    return list(found.values())


async def test_each_primary_of_a_cluster_counts_its_organizations(cluster: ClusterScene) -> None:
    """Each primary gets one round trip, and the counts are exact."""
    cluster.settle()
    orgs, worker = orgs_by_shard(cluster), RedisWorker(cluster.url)
    await worker.link.open()

    tallies = await asyncio.gather(*(worker.count(org_id) for org_id in orgs * 10))

    assert sorted(tally.count for tally in tallies) == sorted(list(range(1, 11)) * 3)
    assert worker.heard.trips == [10, 10, 10]
    await worker.link.close()


async def test_a_killed_primary_of_a_cluster_does_not_affect_the_others(cluster: ClusterScene) -> None:
    """Its organizations are counted in process until its replica is promoted. The other limits apply all the time."""
    cluster.settle()
    orgs = orgs_by_shard(cluster)
    async with load(cluster.url, *orgs) as running:
        await asyncio.gather(*(running.more(org_id) for org_id in orgs))
        killed = cluster.primary_of(orgs[0])
        killed.kill()
        await running.counts_in_process(orgs[0])
        await asyncio.gather(*(running.more(org_id) for org_id in orgs[1:]))
        await running.more(orgs[0])

        assert cluster.primary_of(orgs[0]) is not killed
    assert running.slowest_s < SLACK * TIMEOUT_S
    for org_id in orgs[1:]:
        counts = running.counts[org_id]
        assert len(set(counts)) == len(counts)
        # On a busy machine a reply can come too late. Redis and the process have then both counted the request.
        late = running.in_process.get(org_id, 0)
        assert max(counts) - len(counts) <= late
        assert late < running.in_process[orgs[0]] / 100


async def test_a_revocation_on_a_cluster_takes_effect_at_the_next_request(cluster: ClusterScene) -> None:
    """The epoch alone informs the worker, on each primary. The watch does not run, and the clock stands still."""
    cluster.settle()
    async with AdmissionScene(cluster.url, ManualClock(), UNHURRIED_S).opened() as scene:
        for primary in [cluster.primary_of(org_id) for org_id in orgs_by_shard(cluster)]:
            tenant = await scene.known_tenant(partial(_lies_at, cluster, primary))
            await scene.store.revoke_token(tenant.org_id, tenant.token.token_id, scene.clock.now())
            await scene.admit(tenant, tenant.token)  # the worker does not know of the change yet

            await scene.manage.revoke_token(tenant.org_id, tenant.token.token_id)

            with pytest.raises(InvalidTokenError):
                await scene.admit(tenant, tenant.token)
            assert (await scene.admit(tenant, tenant.other_token)).epoch.was_read
    assert scene.worker.heard.failures == []


async def test_a_revocation_while_a_primary_is_down_takes_effect_by_the_watch(cluster: ClusterScene) -> None:
    """Requests of its organization are counted in process until Redis counts them again. No live token is refused."""
    cluster.settle()
    async with AdmissionScene(cluster.url, SystemClock(), TIMEOUT_S).opened() as scene, scene.watching():
        tenant = await scene.known_tenant()
        await until_counted(scene, tenant, by_redis=True)
        with cluster.without_promotions():
            cluster.primary_of(tenant.org_id).kill()
            await until_counted(scene, tenant, by_redis=False)
            assert not await scene.auth.epochs.replace(tenant.org_id)
            await scene.manage.revoke_token(tenant.org_id, tenant.token.token_id)
            async with asyncio.timeout(BOUND_S):
                await until_refused(scene, tenant)
        await until_counted(scene, tenant, by_redis=True)


async def until_counted(scene: AdmissionScene, tenant: Tenant, *, by_redis: bool) -> None:
    """Admit requests until Redis counts one, or until one is counted in process."""
    async with asyncio.timeout(EVENT_S):
        while (await scene.admit(tenant, tenant.other_token)).epoch.was_read is not by_redis:
            await clients_pause()


async def until_refused(scene: AdmissionScene, tenant: Tenant) -> None:
    """Wait until the tenant's token is refused. Its other token is admitted all the time, counted in process."""
    while True:
        try:
            await scene.admit(tenant, tenant.token)
        except InvalidTokenError:
            return
        assert not (await scene.admit(tenant, tenant.other_token)).epoch.was_read
        await clients_pause()


async def clients_pause() -> None:
    """Wait as clients do between two requests."""
    await asyncio.sleep(0.01)


def _lies_at(cluster: ClusterScene, primary: RedisServer, org_id: UUID) -> bool:
    return cluster.primary_of(org_id) is primary


async def test_a_slot_that_moves_is_followed(cluster: ClusterScene) -> None:
    """Redis redirects with ASK while the slot moves, and with MOVED afterwards."""
    cluster.settle()
    org_id = uuid4()
    slot, source = key_slot(str(org_id).encode()), cluster.primary_of(org_id)
    target = next(cluster.primary_of(other) for other in orgs_by_shard(cluster) if cluster.primary_of(other) != source)
    worker = RedisWorker(cluster.url)
    await worker.link.open()
    here, there = (str(server.command("CLUSTER", "MYID"), "ascii") for server in (source, target))
    target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", here)
    source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", there)

    await worker.directives.put(org_id, ORG, EPOCH, FOUND)
    found = await worker.directives.get(org_id, ORG, EPOCH)
    in_process = (await worker.count(org_id)).count
    for server in (target, source):
        server.command("CLUSTER", "SETSLOT", slot, "NODE", there)
    moved = [(await worker.count(org_id)).count for _ in range(3)]

    assert found == await worker.directives.get(org_id, ORG, EPOCH) == FOUND
    assert (in_process, moved) == (1, [1, 2, 3])
    assert worker.heard.failures == ["refused (TRYAGAIN)"]
    await worker.link.close()
    assert cluster.primary_of(org_id) is target


async def test_a_cluster_that_starts_later_is_used(cluster: ClusterScene) -> None:
    """No request waits for it."""
    cluster.settle()
    with Relay.running(("127.0.0.1", cluster.servers[0].port)) as relay:
        relay.cut()
        worker = RedisWorker(f"redis+cluster://127.0.0.1:{relay.port}")
        await worker.link.open()
        assert not (await worker.count(ORG)).epoch.was_read
        relay.heal()
        await worker.link.open()
        assert (await worker.count(ORG)).epoch.was_read
        await worker.link.close()


async def test_tls_and_a_user_without_dangerous_commands(redis_server: RedisServer, tmp_path: Path) -> None:
    """The user may not run INFO, CLIENT and HELLO. Redis counts its requests."""
    client = redis_server.client()
    client.acl_setuser(
        "kim",
        enabled=True,
        passwords=["+s3:cret"],
        keys=["ibex:*"],
        categories=["+@all", "-@dangerous", "-@connection"],
    )
    client.acl_setuser("kim", enabled=True, commands=["+auth", "+select"])
    authority, trusted = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    async with tls_front(authority, redis_server.port) as port:
        with Relay.running((HOST, port)) as far:
            far.delay_s = 0.0075
            worker = RedisWorker(
                f"rediss://kim:s3%3Acret@{HOST}:{far.port}/2?ssl_ca_certs={quote(str(trusted))}",
                timeout_s=10 * TIMEOUT_S,
            )
            await worker.link.open()
            counts = [(await worker.count(ORG)).count for _ in range(5)]
            refused = await worker.link.refused_commands()
            await worker.link.close()

    assert (counts, worker.heard.failures) == ([1, 2, 3, 4, 5], [])
    assert refused == []
    assert set(client.info("keyspace")) == {"db2"}


async def test_redis_with_a_latency_of_15_ms_is_usable(redis_server: RedisServer) -> None:
    """Connecting takes several round trips, which the timeout of one round trip does not limit."""
    redis_server.client().config_set("requirepass", "secret")
    with Relay.running(("127.0.0.1", redis_server.port)) as far:
        far.delay_s = 0.0075
        worker = RedisWorker(f"redis://:secret@127.0.0.1:{far.port}/1", timeout_s=2 * TIMEOUT_S)
        far.delay_s = 0.06  # longer than the timeout of a round trip
        await worker.link.open()
        far.delay_s = 0.0075
        counts = [(await worker.count(ORG)).count for _ in range(5)]
        await worker.link.close()

    assert (counts, worker.heard.failures) == ([1, 2, 3, 4, 5], [])


async def test_an_idle_connection_that_the_server_closed_costs_no_request(redis_server: RedisServer) -> None:
    """The link detects it before it sends a command."""
    worker = RedisWorker(redis_server.url)
    assert (await worker.count(ORG)).count == 1
    redis_server.client().client_kill_filter(_type="normal", skipme=True)

    assert (await worker.count(ORG)).count == 2
    assert worker.heard.failures == []
    await worker.link.close()


@pytest.mark.parametrize(
    ("denied", "named"), [("-evalsha", ["EVALSHA"]), ("-incrby", ["INCRBY"]), ("resetkeys", ["keys"])]
)
async def test_the_commands_that_a_user_may_not_run_are_named(
    redis_server: RedisServer, denied: str, named: list[str]
) -> None:
    """The operator can then allow them."""
    client = redis_server.client()
    client.acl_setuser("kim", enabled=True, passwords=["+secret"], keys=["ibex:*"], categories=["+@all"])
    redis_server.command("ACL", "SETUSER", "kim", denied)
    link = RedisLink(
        redis_server.url.replace("redis://", "redis://kim:secret@"), SystemClock(), RedisWorker(redis_server.url).heard
    )

    assert await link.refused_commands() == named
    await link.close()
