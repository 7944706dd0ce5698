"""Run the auth service over an in-memory store, in this process or in a process of its own, with its clients."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc
import pytest

from harness.memory.clock import ManualClock
from harness.memory.epochs import InMemoryEpochs
from harness.memory.identity import InMemoryIdentity
from harness.memory.ids import SequentialIds
from ibex.adapters.grpc.channel import ChannelSecurity, GrpcAuthChannel
from ibex.adapters.grpc.generated import auth_pb2_grpc
from ibex.adapters.grpc.server import AuthServer, ServerLimits, ServerSecurity
from ibex.adapters.grpc.service import IdentityUseCases
from ibex.adapters.grpc.verifiers import GrpcAgentVerifier, GrpcTokenVerifier
from ibex.adapters.grpc.watch_service import WatchService
from ibex.domain.errors import AuthUnavailableError, ServiceDegradedError, SourceUnavailableError
from ibex.domain.freshness.change_log import WatchServer
from ibex.domain.identity.management import ManageIdentity, TokenGrant, VerifyAgent, VerifyToken
from ibex.domain.identity.permissions import ADMIN, AGENT_DEFAULT
from ibex.domain.identity.token_hash import TokenPeppers

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator, Sequence

    from ibex.adapters.grpc.calls import CallObserver
    from ibex.adapters.grpc.tls import ClientTls
    from ibex.domain.identity.management import NamedAgent, Organization, StoredToken
    from ibex.domain.identity.model import Agent, PersonalAccessToken, Principal

LOOPBACK = "127.0.0.1"
CREDENTIAL = "a service credential of some length"
REQUEST_ID = UUID(int=0xABC)
PEPPERS = TokenPeppers({"k1": b"a pepper of some length"})
PATIENT_S = 5.0  # on a slow machine, a deadline that a test is not about must not make the test fail


class TrickyStore(InMemoryIdentity):
    """A store whose lookups can fail, or hang until they are released. Events report their start and cancellation."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.hangs = False
        self.asked = asyncio.Event()
        self.released = asyncio.Event()
        self.abandoned = asyncio.Event()
        self.finds = 0

    async def find_token(self, token_id: UUID) -> tuple[StoredToken, Organization] | None:
        """Return the token, unless the store is set to fail or hang."""
        await self._trouble()
        return await super().find_token(token_id)

    async def find_agent(self, org_id: UUID, agent_id: UUID) -> Agent | None:
        """Return the agent, unless the store is set to fail or hang."""
        await self._trouble()
        return await super().find_agent(org_id, agent_id)

    async def _trouble(self) -> None:
        self.finds += 1
        self.asked.set()
        if self.error is not None:
            raise self.error
        if self.hangs:
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                self.abandoned.set()
                raise


@dataclass
class Identity:
    """The use cases over a store, with an organization that has an agent, its token and an administrator's."""

    store: TrickyStore = field(default_factory=TrickyStore)
    clock: ManualClock = field(default_factory=ManualClock)
    ids: SequentialIds = field(default_factory=SequentialIds)
    org: Organization = field(init=False)
    agent: NamedAgent = field(init=False)
    token: PersonalAccessToken = field(init=False)
    admin: PersonalAccessToken = field(init=False)

    def __post_init__(self) -> None:
        self.epochs = InMemoryEpochs(self.clock, SequentialIds())
        self.manage = ManageIdentity(self.store, PEPPERS, self.epochs, self.clock, self.ids)
        self.watch_server = WatchServer(self.store.change_log)
        tokens = VerifyToken(self.store, PEPPERS, self.epochs, self.clock)
        agents = VerifyAgent(self.store, self.epochs)
        watch = WatchService(self.watch_server, self.store)
        self.use_cases = IdentityUseCases(tokens, agents, tokens, self.manage, watch)

    @classmethod
    async def settled(cls) -> Identity:
        """Create the organization, agent and tokens. Every call creates the same ids and secrets."""
        identity = cls()
        identity.org = await identity.manage.create_organization("acme", 60)
        identity.agent = await identity.manage.create_agent(identity.org.id, "support")
        identity.token = await identity.manage.create_token(
            identity.org.id, TokenGrant("agent", AGENT_DEFAULT, agent_id=identity.agent.id)
        )
        identity.admin = await identity.manage.create_token(identity.org.id, TokenGrant("administrator", ADMIN))
        identity.store.finds = 0
        identity.store.asked.clear()
        return identity


@asynccontextmanager
async def serving(
    identity: Identity,
    *,
    port: int = 0,
    security: ServerSecurity | None = None,
    observer: CallObserver | None = None,
    limits: ServerLimits | None = None,
) -> AsyncIterator[AuthServer]:
    """Serve on loopback and answer the pings of the watches."""
    server = AuthServer(
        f"{LOOPBACK}:{port}",
        identity.use_cases,
        identity.ids,
        identity.clock,
        security=security or ServerSecurity(CREDENTIAL),
        observer=observer,
        limits=limits or ServerLimits(stop_grace_s=0),
    )
    await server.start()
    answering = asyncio.create_task(identity.watch_server.run())
    try:
        yield server
    finally:
        await server.stop()
        answering.cancel()


@asynccontextmanager
async def asking(
    port: int | Sequence[int],
    *,
    credential: str | None = CREDENTIAL,
    tls: ClientTls | None = None,
    timeout_s: float = PATIENT_S,
    max_in_flight: int = 128,
    host: str = LOOPBACK,
) -> AsyncIterator[GrpcAuthChannel]:
    """Open a client's connections to one port or to several replicas."""
    ports = (port,) if isinstance(port, int) else port
    channel = GrpcAuthChannel(
        ",".join(f"{host}:{each}" for each in ports),
        lambda: REQUEST_ID,
        security=ChannelSecurity(credential, tls),
        timeout_s=timeout_s,
        max_in_flight=max_in_flight,
    )
    await channel.open()
    try:
        yield channel
    finally:
        await channel.close()


@asynccontextmanager
async def stub(port: int) -> AsyncIterator[Any]:
    """Open a connection with the generated stub alone, without the client of IBEX."""
    async with grpc.aio.insecure_channel(f"{LOOPBACK}:{port}") as channel:
        yield auth_pb2_grpc.AuthServiceStub(channel)


def bearer(credential: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a credential."""
    return (("authorization", f"Bearer {credential}"),)


class AuthProcess:
    """The auth service in a process of its own, over ``Identity.settled()``."""

    def __init__(self, port: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.auth", str(port)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        assert self._process.stdout is not None
        with self._process.stdout as output:
            said = output.readline()
        if not said:
            self.kill()
            raise RuntimeError(f"it does not listen on port {port}")
        self.port = int(said)

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the process, even if it is stopped, and wait until it has ended."""
        self._process.kill()
        self._process.wait()


async def cannot_be_checked(channel: GrpcAuthChannel, identity: Identity) -> float:
    """Assert that auth cannot check token or agent, and not because of its source. Return the seconds that it took."""
    started = time.monotonic()
    with pytest.raises(ServiceDegradedError) as token_error:
        await GrpcTokenVerifier(channel, identity.clock).verify(identity.token)
    with pytest.raises(AuthUnavailableError) as agent_error:
        await GrpcAgentVerifier(channel, identity.clock).verify(identity.org.id, identity.agent.id)
    assert not isinstance(token_error.value, SourceUnavailableError)
    assert not isinstance(agent_error.value, SourceUnavailableError)
    return time.monotonic() - started


async def until_answered(channel: GrpcAuthChannel, token: PersonalAccessToken) -> Principal:
    """Verify until auth answers. Each attempt waits for a connection and ends at its own deadline."""
    verifier = GrpcTokenVerifier(channel, ManualClock())
    async with asyncio.timeout(20):
        while True:
            await channel.connected()
            try:
                return (await verifier.verify(token)).value
            except ServiceDegradedError:
                continue


async def _serve(port: int) -> None:
    async with serving(await Identity.settled(), port=port) as server:
        print(server.port, flush=True)  # noqa: T201 - it reports on a pipe
        await server.wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
