"""The watch and the pages of live tokens, through real sockets."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING
from uuid import UUID

import grpc
import pytest

from harness.auth import Identity, asking, serving, stub
from harness.auth_scene import SERVICE_METADATA, Code, Recorder
from ibex.adapters.grpc.call_limits import CallLimits
from ibex.adapters.grpc.generated import auth_pb2
from ibex.adapters.grpc.server import ServerLimits
from ibex.adapters.grpc.verifiers import GrpcTokenVerifier
from ibex.adapters.grpc.watch_service import MAX_CHANGES, MAX_PAGE
from ibex.adapters.grpc.watch_streams import GrpcLiveTokens, GrpcWatch
from ibex.adapters.system.clock import SystemClock
from ibex.domain.freshness.change_log import Change, Events, Pong, SourceUnavailable, StreamStart
from ibex.domain.freshness.kinds import Kind
from ibex.domain.freshness.token_filter import TokenFilter, TokensUnavailableError
from ibex.domain.freshness.validity import Validity
from ibex.domain.freshness.watch import StreamLostError, Watch
from ibex.domain.identity.management import TokenGrant
from ibex.domain.identity.model import AgentStatus
from ibex.domain.identity.permissions import AGENT_DEFAULT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ibex.adapters.grpc.channel import GrpcAuthChannel
    from ibex.adapters.grpc.server import AuthServer
    from ibex.domain.freshness.change_log import WatchMessage
    from ibex.domain.freshness.watch import WatchStream

WAIT_S = 20.0
STREAMS = 100


@pytest.fixture
async def identity() -> Identity:
    """The identity that the server serves."""
    return await Identity.settled()


@pytest.fixture
async def server(identity: Identity) -> AsyncIterator[AuthServer]:
    """A server with a long grace period, so that its stop would be slow if streams did not end at once."""
    async with serving(identity, limits=ServerLimits(stop_grace_s=WAIT_S)) as running:
        yield running


@pytest.fixture
async def channel(server: AuthServer) -> AsyncIterator[GrpcAuthChannel]:
    """A worker's channel to the server."""
    async with asyncio.timeout(WAIT_S), asking(server.port) as opened:
        await opened.connected()
        yield opened


async def answers(stream: WatchStream, ping: int) -> list[WatchMessage]:
    """Send a ping. Return the messages up to its pong, or up to the message that the source is unavailable."""
    stream.ping(ping)
    messages: list[WatchMessage] = []
    async for message in stream:
        messages.append(message)
        if isinstance(message, Pong | SourceUnavailable):
            return messages
    raise AssertionError


async def loses(channel: GrpcAuthChannel) -> None:
    """Assert that a stream ends without a message."""
    async with GrpcWatch(channel).open(None) as stream:
        stream.ping(1)
        with pytest.raises(StreamLostError):
            await anext(aiter(stream))


async def validates(channel: GrpcAuthChannel, identity: Identity) -> None:
    """Assert that a call works."""
    fetched = await GrpcTokenVerifier(channel, identity.clock).verify(identity.token)
    assert fetched.value.token_id == identity.token.token_id


async def test_a_new_stream_starts_with_first(channel: GrpcAuthChannel) -> None:
    """It says so once. The next ping gets its pong only."""
    async with GrpcWatch(channel).open(None) as stream:
        first, pong = await answers(stream, 1)
        again = await answers(stream, 2)

    assert isinstance(first, StreamStart)
    assert pong == Pong(1, first.position)
    assert again == [Pong(2, first.position)]


async def test_a_change_arrives_before_the_pong(channel: GrpcAuthChannel, identity: Identity) -> None:
    """Each kind has its organization, a new token also its id, and no change comes twice."""
    org_id = identity.org.id
    async with GrpcWatch(channel).open(None) as stream:
        await answers(stream, 1)
        await identity.manage.set_agent_status(org_id, identity.agent.id, AgentStatus.PAUSED)
        identity.store.change_log.append(org_id, Kind.DIRECTIVES)
        identity.store.change_log.append(org_id, Kind.TOKENS, UUID(int=7))
        events, pong = await answers(stream, 2)
        nothing = await answers(stream, 3)

    changes = [Change(org_id, Kind.AGENTS), Change(org_id, Kind.DIRECTIVES), Change(org_id, Kind.TOKENS, UUID(int=7))]
    assert events == Events(changes)
    assert isinstance(pong, Pong)
    assert nothing == [Pong(3, pong.position)]


async def test_a_stream_resumes_from_the_last_pong(channel: GrpcAuthChannel, identity: Identity) -> None:
    """It gets the changes between the two streams, and is not a new stream."""
    async with GrpcWatch(channel).open(None) as stream:
        last = (await answers(stream, 1))[-1]
    assert isinstance(last, Pong)
    await identity.manage.revoke_token(identity.org.id, identity.token.token_id)
    async with GrpcWatch(channel).open(last.position) as stream:
        resumed = await answers(stream, 1)
    identity.store.change_log.begin_incarnation()
    async with GrpcWatch(channel).open(last.position) as stream:
        begun = await answers(stream, 1)

    assert resumed[0] == Events([Change(identity.org.id, Kind.TOKENS)])
    assert [type(message) for message in begun] == [StreamStart, Pong]


async def test_an_unreadable_log_is_reported(channel: GrpcAuthChannel, identity: Identity) -> None:
    """That message replaces the pong. The stream stays, and no change is missed once the log can be read again."""
    async with GrpcWatch(channel).open(None) as stream:
        await answers(stream, 1)
        identity.store.change_log.reachable = False
        identity.store.change_log.append(identity.org.id, Kind.TOKENS)
        unavailable = await answers(stream, 2)
        identity.store.change_log.reachable = True
        events, _ = await answers(stream, 3)

    assert unavailable == [SourceUnavailable()]
    assert events == Events([Change(identity.org.id, Kind.TOKENS)])


@pytest.mark.parametrize("credential", [None, "wrong"])
async def test_the_watch_requires_the_service_credential(
    server: AuthServer, channel: GrpcAuthChannel, identity: Identity, credential: str | None
) -> None:
    """This covers changes and live tokens. A worker with the credential is not affected."""
    async with asking(server.port, credential=credential) as stranger:
        await stranger.connected()
        await loses(stranger)
        with pytest.raises(TokensUnavailableError):
            await GrpcLiveTokens(stranger).count()
    await validates(channel, identity)


@pytest.mark.parametrize("opening", [auth_pb2.WatchRequest(ping=1), auth_pb2.WatchRequest(), None])
async def test_a_stream_without_an_open_request_is_refused(opening: auth_pb2.WatchRequest | None) -> None:
    """The status is INVALID_ARGUMENT, for another first request and for none. The call is observed."""
    identity, observer = await Identity.settled(), Recorder()
    async with asyncio.timeout(WAIT_S), serving(identity, observer=observer) as server, stub(server.port) as service:
        requests = () if opening is None else (opening,)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await anext(aiter(service.Watch(iter(requests), metadata=SERVICE_METADATA)))

    assert raised.value.code() is Code.INVALID_ARGUMENT
    assert (raised.value.trailing_metadata() or {}).get("ibex-reason") == "invalid-argument"
    assert observer.calls == [("Watch", "INVALID_ARGUMENT")]
    assert observer.failures == []


async def test_many_changes_are_split(channel: GrpcAuthChannel, identity: Identity) -> None:
    """Each message stays below the size limit. All of them arrive before the pong, in order."""
    changes = [Change(UUID(int=number), Kind.TOKENS, UUID(int=number)) for number in range(1, 2 * MAX_CHANGES + 2)]
    async with GrpcWatch(channel).open(None) as stream:
        await answers(stream, 1)
        for change in changes:
            identity.store.change_log.append(change.org_id, change.kind, change.live_token)
        *events, pong = await answers(stream, 2)

    sizes = [len(message.changes) for message in events if isinstance(message, Events)]
    assert sizes == [MAX_CHANGES, MAX_CHANGES, 1]
    assert [change for message in events if isinstance(message, Events) for change in message.changes] == changes
    assert isinstance(pong, Pong)


async def test_stopping_ends_streams_at_once(server: AuthServer, channel: GrpcAuthChannel) -> None:
    """The worker then switches to another replica. The grace period applies to calls, not to streams."""
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(GrpcWatch(channel).open(None)) for _ in range(3)]
        for stream in streams:
            await answers(stream, 1)
        stopping = asyncio.create_task(server.stop())
        for stream in streams:
            with pytest.raises(StreamLostError):
                await anext(aiter(stream))
        await stopping  # the grace period is as long as the time limit of the test


async def test_a_closed_channel_loses_its_stream(channel: GrpcAuthChannel) -> None:
    """The stream is lost, not cancelled. A new stream cannot be opened."""
    async with GrpcWatch(channel).open(None) as stream:
        await answers(stream, 1)
        waiting = asyncio.ensure_future(anext(aiter(stream)))
        await asyncio.sleep(0)
        await channel.close()
        with pytest.raises(StreamLostError):
            await waiting
    with pytest.raises(StreamLostError):
        async with GrpcWatch(channel).open(None):
            pass


async def test_many_streams_get_every_change(channel: GrpcAuthChannel, identity: Identity) -> None:
    """Every worker gets each change, and calls are served as well."""
    log = identity.store.change_log
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(GrpcWatch(channel).open(None)) for _ in range(STREAMS)]
        await asyncio.gather(*(answers(stream, 1) for stream in streams))
        log.append(identity.org.id, Kind.AGENTS)
        received = await asyncio.gather(*(answers(stream, 2) for stream in streams), validates(channel, identity))

    assert [messages[0] for messages in received[:-1] if messages] == [
        Events([Change(identity.org.id, Kind.AGENTS)])
    ] * STREAMS


async def test_streams_have_their_own_limit() -> None:
    """One stream too many is refused, calls are served, and a stream that ends makes room."""
    identity = await Identity.settled()
    limits = ServerLimits(CallLimits(watch=2), stop_grace_s=0)
    async with asyncio.timeout(WAIT_S), serving(identity, limits=limits) as server, asking(server.port) as channel:
        await channel.connected()
        watch = GrpcWatch(channel)
        async with watch.open(None) as first:
            await answers(first, 1)
            async with watch.open(None) as second:
                await answers(second, 1)
                await loses(channel)
                await validates(channel, identity)
            while True:
                with suppress(StreamLostError):  # the server notices the end a moment later
                    async with watch.open(None) as third:
                        await answers(third, 1)
                        break
            await answers(first, 2)


async def test_the_pages_have_every_live_token_once(channel: GrpcAuthChannel, identity: Identity) -> None:
    """They are ordered by id, without revoked tokens. The last page is marked."""
    live = sorted([identity.token.token_id, identity.admin.token_id])
    tokens = GrpcLiveTokens(channel)
    one, two, three = (await tokens.page(None, 1), await tokens.page(live[0], 1), await tokens.page(None, MAX_PAGE))
    count = await tokens.count()
    await identity.manage.revoke_token(identity.org.id, live[0])

    assert (one.token_ids, one.next_after) == (live[:1], live[0])
    assert (two.token_ids, two.next_after) == (live[1:], None)
    assert (three.token_ids, three.next_after) == (live, None)
    assert count == 2
    assert (await tokens.page(None, 10)).token_ids == live[1:]


async def test_a_page_that_is_too_large_is_refused(channel: GrpcAuthChannel) -> None:
    """The server does not read it from the database."""
    with pytest.raises(TokensUnavailableError):
        await GrpcLiveTokens(channel).page(None, MAX_PAGE + 1)


async def test_live_tokens_that_cannot_be_read_are_an_error(
    channel: GrpcAuthChannel, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call fails with an error. The next one succeeds."""

    async def fail() -> int:
        raise TokensUnavailableError

    with monkeypatch.context() as patch:
        patch.setattr(identity.store, "count", fail)
        with pytest.raises(TokensUnavailableError):
            await GrpcLiveTokens(channel).count()
    assert await GrpcLiveTokens(channel).count() == 2


async def test_a_workers_watch_and_filter_follow_the_server(channel: GrpcAuthChannel, identity: Identity) -> None:
    """After one pong, a revocation has invalidated, a new token is in the filter, and an unknown one is not."""
    clock = SystemClock()
    validity = Validity()
    token_filter = TokenFilter(GrpcLiveTokens(channel), b"a key")
    watch = Watch(GrpcWatch(channel), validity, clock, lambda: 0.5, (token_filter,))
    running = [asyncio.create_task(watch.run()), asyncio.create_task(token_filter.run())]
    try:
        await watch.pong_after(clock.monotonic_ns())
        while not token_filter.is_complete:  # noqa: ASYNC110 - it is built in the background
            await asyncio.sleep(0.01)
        before_ns = clock.monotonic_ns()
        assert validity.may_serve(Kind.TOKENS, identity.org.id, before_ns, before_ns)
        assert not token_filter.definitely_absent(identity.token.token_id)
        assert token_filter.definitely_absent(UUID(int=1 << 100))

        created = await identity.manage.create_token(identity.org.id, TokenGrant("new", AGENT_DEFAULT))
        await identity.manage.revoke_token(identity.org.id, identity.token.token_id)
        await watch.pong_after(clock.monotonic_ns())

        assert not token_filter.definitely_absent(created.token_id)
        assert not validity.may_serve(Kind.TOKENS, identity.org.id, before_ns, clock.monotonic_ns())
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
