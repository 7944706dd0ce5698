"""Several replicas of auth: balancing, retries, and replicas that stop, freeze or lose their database (ADR 0046)."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from harness.auth import REQUEST_ID, AuthProcess, Identity, asking, cannot_be_checked, serving
from harness.auth_scene import Recorder
from harness.garbage import finding
from harness.servers import free_port
from ibex.adapters.grpc.channel import ChannelSecurity, GrpcAuthChannel
from ibex.adapters.grpc.verifiers import GrpcAgentVerifier, GrpcTokenVerifier
from ibex.adapters.grpc.watch_streams import GrpcLiveTokens, GrpcWatch
from ibex.domain.errors import (
    AgentSourceUnavailableError,
    InvalidTokenError,
    ServiceDegradedError,
    TokenSourceUnavailableError,
)
from ibex.domain.freshness.change_log import StreamStart
from ibex.domain.freshness.kinds import Kind
from ibex.domain.identity.model import PersonalAccessToken

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ibex.adapters.grpc.server import AuthServer

AT_A_TIME = 8
WAIT_S = 30.0


class Replica:
    """A server with its own store, which has the same identity as the others."""

    def __init__(self, identity: Identity, server: AuthServer, observer: Recorder) -> None:
        self.identity = identity
        self.server = server
        self.calls = observer.calls


@asynccontextmanager
async def replica(port: int = 0) -> AsyncIterator[Replica]:
    """Run the server."""
    identity, observer = await Identity.settled(), Recorder()
    async with serving(identity, port=port, observer=observer) as server:
        yield Replica(identity, server, observer)


@asynccontextmanager
async def connected(
    *replicas: Replica, timeout_s: float = 5.0, max_in_flight: int = 128
) -> AsyncIterator[GrpcAuthChannel]:
    """Return a channel to all of them."""
    ports = [one.server.port for one in replicas]
    async with asyncio.timeout(WAIT_S), asking(ports, timeout_s=timeout_s, max_in_flight=max_in_flight) as channel:
        await all_connected(channel)
        yield channel


async def all_connected(channel: GrpcAuthChannel) -> None:
    """Wait until every replica is connected."""
    async with asyncio.timeout(WAIT_S):
        while not all(one.is_connected for one in channel.replicas):  # noqa: ASYNC110 - the channel looks now and then
            await asyncio.sleep(0.01)


async def validate(channel: GrpcAuthChannel, identity: Identity, times: int = 1) -> None:
    """Validate the live token and its agent."""
    for _ in range(times):
        fetched = await GrpcTokenVerifier(channel, identity.clock).verify(identity.token)
        agent = await GrpcAgentVerifier(channel, identity.clock).verify(identity.org.id, identity.agent.id)
        assert (fetched.value.org_id, agent.value.id) == (identity.org.id, identity.agent.id)


async def test_replicas_are_called_in_turn() -> None:
    """Each replica gets its share, and each call goes to one replica only."""
    async with replica() as a, replica() as b, replica() as c, connected(a, b, c) as channel:
        await validate(channel, a.identity, 15)

    assert [len(one.calls) for one in (a, b, c)] == [10, 10, 10]


async def test_a_replica_that_stops_fails_no_call() -> None:
    """This covers the stop and the time after it. The replica is used again after its restart."""
    async with replica() as a, replica() as b, connected(a, b) as channel:
        running = True

        async def under_load() -> int:
            calls = 0
            while running:
                await validate(channel, a.identity)
                calls += 2
            return calls

        load = [asyncio.create_task(under_load()) for _ in range(AT_A_TIME)]
        await asyncio.sleep(0)
        await b.server.stop()
        before = len(a.calls)
        while len(a.calls) < before + 10 * AT_A_TIME:  # noqa: ASYNC110 - it serves meanwhile
            await asyncio.sleep(0.01)
        async with replica(b.server.port) as back:
            while len(back.calls) < AT_A_TIME:  # noqa: ASYNC110 - the channel connects by itself
                await asyncio.sleep(0.01)
            running = False
            calls = sum(await asyncio.gather(*load))

    assert calls > 12 * AT_A_TIME


async def test_a_replica_that_freezes_fails_no_call() -> None:
    """Calls in flight on it are retried on another replica, and soon no call goes to it."""
    frozen = AuthProcess(free_port())
    try:
        async with (
            replica() as a,
            asyncio.timeout(WAIT_S),
            asking((a.server.port, frozen.port), timeout_s=2) as channel,
        ):
            await all_connected(channel)
            await validate(channel, a.identity, AT_A_TIME)
            frozen.signal(signal.SIGSTOP)
            before = len(a.calls)
            await asyncio.gather(*(validate(channel, a.identity, 10) for _ in range(AT_A_TIME)))
            answered = len(a.calls) - before
            a.identity.store.error = ServiceDegradedError()
            for _ in range(2):  # the frozen replica does not hide the error of the other
                with pytest.raises(TokenSourceUnavailableError):
                    await GrpcTokenVerifier(channel, a.identity.clock).verify(a.identity.token)
            a.identity.store.error = None
            frozen.signal(signal.SIGCONT)
            await all_connected(channel)
            await validate(channel, a.identity)
    finally:
        frozen.kill()

    assert answered == 2 * 10 * AT_A_TIME


async def test_a_replica_without_its_database_fails_no_call() -> None:
    """The other replica answers. If both have lost their database, the error says so, also if one only hangs."""
    async with replica() as a, replica() as b, connected(a, b, timeout_s=1.0) as channel:
        b.identity.store.error = ServiceDegradedError()
        await validate(channel, a.identity, 10)
        a.identity.store.error = ServiceDegradedError()
        for _ in range(2):
            with pytest.raises(TokenSourceUnavailableError):
                await GrpcTokenVerifier(channel, a.identity.clock).verify(a.identity.token)
            with pytest.raises(AgentSourceUnavailableError):
                await GrpcAgentVerifier(channel, a.identity.clock).verify(a.identity.org.id, a.identity.agent.id)
        a.identity.store.error, a.identity.store.hangs = None, True
        for _ in range(2):
            with pytest.raises(TokenSourceUnavailableError):
                await GrpcTokenVerifier(channel, a.identity.clock).verify(a.identity.token)
        a.identity.store.hangs = False
        await validate(channel, a.identity)


async def test_a_timeout_alone_proves_nothing_about_the_source() -> None:
    """Both replicas are frozen. The call ends at its deadline, as an outage without a reason."""
    frozen, identity = (AuthProcess(), AuthProcess()), await Identity.settled()
    try:
        async with asyncio.timeout(WAIT_S), asking([one.port for one in frozen], timeout_s=0.1) as channel:
            await all_connected(channel)
            for one in frozen:
                one.signal(signal.SIGSTOP)
            took_s = await cannot_be_checked(channel, identity)
    finally:
        for one in frozen:
            one.kill()

    assert 0.2 <= took_s < 2


async def test_no_call_is_made_more_than_twice() -> None:
    """This holds for any number of replicas. A decision, such as an invalid token, is not retried."""
    async with replica() as a, replica() as b, replica() as c, connected(a, b, c) as channel:
        verifier = GrpcTokenVerifier(channel, a.identity.clock)
        with pytest.raises(InvalidTokenError):
            await verifier.verify(PersonalAccessToken.issue(REQUEST_ID, bytes(32)))
        refused = [call for one in (a, b, c) for call in one.calls]
        for one in (a, b, c):
            one.identity.store.error = ServiceDegradedError()
        with pytest.raises(TokenSourceUnavailableError):
            await verifier.verify(a.identity.token)
        failed = [call for one in (a, b, c) for call in one.calls][len(refused) :]

    assert refused == [("ValidateToken", "UNAUTHENTICATED")]
    assert len(failed) == 2


async def test_a_busy_channel_does_not_retry() -> None:
    """Above half of the limit, a retry would take the place of a first attempt."""
    async with replica() as a, replica() as b, connected(a, b, timeout_s=WAIT_S, max_in_flight=4) as channel:
        verifier, stores = GrpcTokenVerifier(channel, a.identity.clock), (a.identity.store, b.identity.store)
        stores[0].hangs = stores[1].hangs = True
        hanging = [asyncio.create_task(verifier.verify(a.identity.token)) for _ in range(3)]
        while sum(store.finds for store in stores) < len(hanging):  # noqa: ASYNC110 - they have arrived then
            await asyncio.sleep(0.01)
        stores[0].error = stores[1].error = ServiceDegradedError()
        with pytest.raises(TokenSourceUnavailableError):
            await verifier.verify(a.identity.token)
        assert sum(store.finds for store in stores) == len(hanging) + 1
        for store in stores:
            store.error, store.hangs = None, False
            store.released.set()
        await asyncio.gather(*hanging)


async def test_ended_attempts_are_removed_from_the_count_of_calls_in_flight() -> None:
    """This covers attempts that were cancelled because another one answered, or because the caller was cancelled."""
    async with replica() as a, replica() as b, connected(a, b, timeout_s=0.2, max_in_flight=4) as channel:
        b.identity.store.hangs = True
        await validate(channel, a.identity, 10)
        a.identity.store.hangs = True
        verifier = GrpcTokenVerifier(channel, a.identity.clock)
        given_up = [asyncio.create_task(verifier.verify(a.identity.token)) for _ in range(2)]
        await asyncio.wait(given_up, timeout=0)
        for call in given_up:
            call.cancel()
        await asyncio.wait(given_up)
        a.identity.store.hangs = b.identity.store.hangs = False
        await asyncio.gather(*(verifier.verify(a.identity.token) for _ in range(4)))

    assert all(call.cancelled() for call in given_up)


@pytest.mark.parametrize("trouble", ["none", "a lost store", "two lost stores", "silence", "nobody"])
async def test_no_attempt_leaves_a_reference_cycle(trouble: str) -> None:
    """This covers calls that succeed, are retried, or time out (ADR 0033)."""
    timeout_s = 0.05 if trouble == "silence" else 5.0
    async with replica() as a, replica() as b, connected(a, b, timeout_s=timeout_s) as channel:
        stores = (a.identity.store, b.identity.store)
        for store in {"a lost store": stores[:1], "two lost stores": stores}.get(trouble, ()):
            store.error = ServiceDegradedError()
        stores[0].hangs = trouble == "silence"
        if trouble == "nobody":
            await asyncio.gather(a.server.stop(), b.server.stop())
        verifier = GrpcTokenVerifier(channel, a.identity.clock)

        async def ask() -> None:
            try:
                await verifier.verify(a.identity.token)
            except ServiceDegradedError:
                assert trouble in {"two lost stores", "silence", "nobody"}

        await ask()
        with finding(10) as found:
            for _ in range(20):
                await ask()
            await asyncio.sleep(0.01)

    assert {name: count for name, count in found.items() if "harness" not in name} == {}


@pytest.mark.parametrize("form", ["localhost:{0}", "dns:///localhost:{0}", "localhost:{0}, 127.0.0.1:{1}"])
async def test_names_are_resolved(form: str) -> None:
    """Each address of a name is a replica."""
    async with replica() as a, replica() as b, asyncio.timeout(WAIT_S):
        address = form.format(a.server.port, b.server.port)
        channel = GrpcAuthChannel(
            address, lambda: REQUEST_ID, security=ChannelSecurity("a service credential of some length"), timeout_s=5
        )
        await channel.open()
        try:
            await channel.connected()
            await validate(channel, a.identity, 5)
            await channel.ping()
        finally:
            await channel.close()

    assert len(a.calls) > 0


async def test_an_unknown_name_is_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    """Calls fail at once, the log says it once, and closing does not wait."""
    identity = await Identity.settled()
    channel = GrpcAuthChannel("no-such-host.invalid:1", lambda: REQUEST_ID)
    with caplog.at_level(logging.WARNING):
        await channel.open()
        for _ in range(3):
            with pytest.raises(ServiceDegradedError):
                await GrpcTokenVerifier(channel, identity.clock).verify(identity.token)
        with pytest.raises(ServiceDegradedError, match="reached"):
            await channel.ping()
        await channel.close()

    lines = [record.getMessage() for record in caplog.records if record.name.startswith("ibex.")]
    assert set(lines) <= {"cannot resolve the address of auth: no-such-host.invalid:1"}
    assert len(lines) <= 1


async def test_ping_succeeds_while_one_replica_serves() -> None:
    """The ping checks the health of every replica."""
    async with replica() as a, replica() as b, connected(a, b) as channel:
        await a.server.stop()
        for _ in range(4):
            await channel.ping()
        await b.server.stop()
        with pytest.raises(ServiceDegradedError, match="reached"):
            await channel.ping()


async def test_each_stream_goes_to_another_replica_than_the_last() -> None:
    """A worker whose replica is silent then finds one that answers."""
    async with replica() as a, replica() as b, connected(a, b) as channel:
        b.identity.store.change_log.append(b.identity.org.id, Kind.AGENTS)  # makes the positions differ
        firsts = [await _first(channel) for _ in range(6)]
        await b.server.stop()
        await GrpcLiveTokens(channel).count()

    assert firsts[0] != firsts[1]
    assert firsts == firsts[:2] * 3


async def _first(channel: GrpcAuthChannel) -> str:
    await validate(channel, await Identity.settled())  # a call in between does not affect the order
    async with GrpcWatch(channel).open(None) as stream:
        stream.ping(1)
        message = await anext(aiter(stream))
        assert isinstance(message, StreamStart)
        return message.position


async def test_a_page_of_live_tokens_is_retried_on_another_replica() -> None:
    """One restarting replica must not interrupt the download of a filter with millions of tokens."""
    async with replica() as a, replica() as b, connected(a, b) as channel:
        tokens = GrpcLiveTokens(channel)
        await a.server.stop()
        pages: Sequence[int] = [len((await tokens.page(None, 10)).token_ids) for _ in range(4)]

    assert pages == [2] * 4
