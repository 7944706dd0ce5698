"""An auth process over a real PostgreSQL, with few file descriptors, and clients that attack it."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import urllib.request
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
from prometheus_client.parser import text_string_to_metric_families

from harness.auth import LOOPBACK, asking, bearer
from harness.few_descriptors import DESCRIPTORS
from harness.process import IbexProcess
from harness.production import SERVICE_TOKEN, START_TIMEOUT_S
from ibex.adapters.grpc.verifiers import GrpcTokenVerifier
from ibex.adapters.memory.epochs import NoEpochs
from ibex.adapters.postgres.database import Database
from ibex.adapters.postgres.identity import PostgresIdentity
from ibex.adapters.postgres.roles import AUTH_ROLE
from ibex.adapters.system.clock import SystemClock
from ibex.adapters.system.ids import SystemIds
from ibex.domain.identity.management import ManageIdentity, TokenGrant
from ibex.domain.identity.permissions import ADMIN, AGENT_DEFAULT
from ibex.domain.identity.token_hash import TokenPeppers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from uuid import UUID

    from harness.postgres import PostgresDatabase
    from ibex.adapters.grpc.channel import GrpcAuthChannel
    from ibex.domain.identity.model import PersonalAccessToken

PEPPER = bytes(range(32))
PEPPERS = "k:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
MANY = 2 * DESCRIPTORS
"""More connections than the process may have descriptors."""


@dataclass(frozen=True, slots=True)
class AuthPort:
    """The auth process, its ports, and an organization in its database."""

    process: IbexProcess
    port: int
    ops: str
    org_id: UUID
    token: PersonalAccessToken
    admin: PersonalAccessToken

    @classmethod
    @contextmanager
    def running(cls, postgres: PostgresDatabase, redis_url: str, folder: Path, **environ: str) -> Iterator[AuthPort]:
        """Start the process and stop it afterwards; it must exit cleanly."""
        settings = {
            "IBEX_AUTH_DATABASE_URL": postgres.auth_url,
            "IBEX_REDIS_URL": redis_url,
            "IBEX_TOKEN_PEPPERS": PEPPERS,
            "IBEX_AUTH_SERVICE_TOKEN": SERVICE_TOKEN,
            "IBEX_AUTH_LISTEN": f"{LOOPBACK}:0",
            "IBEX_AUTH_OPS_LISTEN": f"{LOOPBACK}:0",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        org_id, token, admin = asyncio.run(_organization(postgres.auth_url))
        process = IbexProcess.spawn(
            ["auth", "serve"], {**settings, **environ}, folder, module="harness.few_descriptors"
        )
        try:
            line = json.loads(process.wait_for_line("serving gRPC on port", START_TIMEOUT_S))["event"]
            port, ops = line.removeprefix("serving gRPC on port ").split(", health and metrics on ")
            yield cls(process, int(port), ops, org_id, token, admin)
        finally:
            code = process.stop()
        assert code == 0

    @asynccontextmanager
    async def proxy(self) -> AsyncIterator[GrpcAuthChannel]:
        """Connect as a proxy does."""
        async with asking(self.port, credential=SERVICE_TOKEN) as channel:
            async with asyncio.timeout(START_TIMEOUT_S):
                await channel.connected()
            yield channel

    @asynccontextmanager
    async def unauthenticated(self) -> AsyncIterator[grpc.aio.Channel]:
        """Open a gRPC connection of its own, without a credential."""
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(f"{LOOPBACK}:{self.port}", options=options) as channel:
            yield channel

    async def validates(self, channel: GrpcAuthChannel) -> None:
        """Assert that a live token is validated."""
        fetched = await GrpcTokenVerifier(channel, SystemClock()).verify(self.token)
        assert fetched.value.org_id == self.org_id

    async def unaffected(self, connected: GrpcAuthChannel) -> None:
        """Assert that validation works for a proxy that is connected and for one that connects now."""
        await self.validates(connected)
        async with self.proxy() as another:
            await self.validates(another)

    def connect(self, first: bytes = b"") -> socket.socket:
        """Open a TCP connection and send bytes."""
        connection = socket.create_connection((LOOPBACK, self.port), START_TIMEOUT_S)
        connection.sendall(first)
        return connection

    def calls(self) -> dict[tuple[str, str], float]:
        """Return how many calls the process has counted, by method and status."""
        with urllib.request.urlopen(f"{self.ops}/metrics", timeout=START_TIMEOUT_S) as response:  # noqa: S310 - loopback
            families = text_string_to_metric_families(response.read().decode())
            return {
                (sample.labels["method"], sample.labels["status"]): sample.value
                for family in families
                for sample in family.samples
                if sample.name == "ibex_auth_call_duration_seconds_count"
            }

    def readiness(self) -> tuple[int, str, dict[str, str]]:
        """Return the status code of /ready, its overall status, and the status of each check."""
        with urllib.request.urlopen(f"{self.ops}/ready", timeout=START_TIMEOUT_S) as response:  # noqa: S310 - loopback
            report = json.load(response)
            return response.status, report["status"], {name: one["status"] for name, one in report["checks"].items()}

    def wait_until_ready(self) -> None:
        """Wait until every readiness check passes."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.readiness()[1] != "ok":
            assert time.monotonic() < deadline
            time.sleep(0.05)

    @property
    def admin_metadata(self) -> Any:
        """Return the metadata of the administrator's credential."""
        return bearer(self.admin.reveal())


async def _organization(url: str) -> tuple[UUID, PersonalAccessToken, PersonalAccessToken]:
    database = Database(url, AUTH_ROLE)
    await database.open()
    try:
        manage = ManageIdentity(
            PostgresIdentity(database),
            TokenPeppers({"k": PEPPER}),
            NoEpochs(SystemClock()),
            SystemClock(),
            SystemIds(),
        )
        organization = await manage.create_organization(f"acme {uuid4()}")  # a database may serve several
        token = await manage.create_token(organization.id, TokenGrant("agent", AGENT_DEFAULT))
        admin = await manage.create_token(organization.id, TokenGrant("administrator", ADMIN))
        return organization.id, token, admin
    finally:
        await database.close()


async def outcome(call: Any) -> tuple[grpc.StatusCode, str | None]:
    """Return the status of a finished call and its reason."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        reason = (error.trailing_metadata() or {}).get("ibex-reason")
        return error.code(), None if reason is None else str(reason)
    return grpc.StatusCode.OK, None


async def no_message() -> AsyncIterator[bytes]:
    """Send no message and leave the call open."""
    await asyncio.Event().wait()
    yield b""
