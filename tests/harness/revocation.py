"""A stack with a relay in every link, to measure how long a revoked token is served while a link fails."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import grpc
import psycopg

from harness.clickhouse import ClickHouseDatabase
from harness.load import Load
from harness.postgres import PostgresDatabase
from harness.production import Production
from harness.redis import RedisServer, redis_server_program
from harness.relay import Relay
from ibex.adapters.clickhouse.engine import ClickHouseEngine
from ibex.adapters.clickhouse.migrate import migrate as migrate_clickhouse
from ibex.adapters.grpc.generated import auth_pb2, auth_pb2_grpc
from ibex.adapters.postgres import migrate as postgres_migrate
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE
from ibex.adapters.postgres.server import DATABASE, PostgresServer
from ibex.domain.identity.management import TokenGrant
from ibex.domain.identity.permissions import AGENT_DEFAULT
from ibex.entrypoints.administration import Administration, administration
from ibex.entrypoints.first_installation import Installation, InstallationNames, bootstrap
from ibex.entrypoints.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from typing import LiteralString
    from uuid import UUID

    from harness.process import IbexProcess
    from ibex.domain.identity.model import PersonalAccessToken

T = TypeVar("T")

Revoker: TypeAlias = Literal["auth", "operator", "sql"]
"""How a token is revoked: by a call to auth, by an operator's command, or by SQL past IBEX."""
LINKS = ("proxy-redis", "auth-redis", "proxy-auth", "auth-postgres")
AFTER_S = 6.0
"""How long is waited for a served request after a revocation: longer than the bound."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """``served_s`` is the time from the revocation's return to the sending of the last request that was served, or 0.

    ``live`` counts the statuses of another token that stayed live.
    """

    served_s: float
    live: dict[int, int]
    refused: dict[int, int]


@dataclass(slots=True)
class RelayedStack:
    """Auth and two proxy workers, with a relay in each link. Operators connect directly to the servers."""

    production: Production
    relays: dict[str, Relay]
    redis: RedisServer
    auth: IbexProcess
    direct_auth: str
    address: str
    installation: Installation
    database: PostgresDatabase
    clients: int = 8
    a_second: float | None = None
    """How often each of the tokens is used; None for as often as possible."""

    @classmethod
    @contextmanager
    def running(
        cls,
        postgres: PostgresDatabase,
        clickhouse: ClickHouseDatabase,
        redis: RedisServer,
        folder: Path,
        **environ: str,
    ) -> Iterator[RelayedStack]:
        """Start everything, with a first installation, and stop it afterwards; ``environ`` is for all processes.

        If ``environ`` has an ``IBEX_REDIS_URL`` of Sentinels or a Cluster, no relay is in these links.
        """
        production = Production.over(postgres, clickhouse, redis.url, folder, **environ)
        installation = asyncio.run(_administer(Settings.load(production.environ), _bootstrap))
        with cls._started(production, postgres, redis, installation, environ.get("IBEX_REDIS_URL")) as stack:
            yield stack

    @contextmanager
    def beside(self, redis: RedisServer, folder: Path) -> Iterator[RelayedStack]:
        """Start a second region: auth and a proxy with their own Redis, on this stack's PostgreSQL."""
        environ = {**self.production.environ, "IBEX_REDIS_URL": redis.url, "IBEX_JOURNAL_DIR": str(folder / "journal")}
        with self._started(Production(environ, folder), self.database, redis, self.installation, None) as stack:
            yield stack

    @classmethod
    @contextmanager
    def _started(
        cls,
        production: Production,
        postgres: PostgresDatabase,
        redis: RedisServer,
        installation: Installation,
        redis_url: str | None,
    ) -> Iterator[RelayedStack]:
        with ExitStack() as stack:
            stack.callback(production.stop)
            to_redis = ("127.0.0.1", redis.port)
            relays = {name: stack.enter_context(Relay.running(to_redis)) for name in ("proxy-redis", "auth-redis")}
            for name in ("auth-postgres", "proxy-postgres"):
                relays[name] = stack.enter_context(Relay.running(postgres.socket))
            auth = production.start_auth(
                IBEX_REDIS_URL=redis_url or f"redis://127.0.0.1:{relays['auth-redis'].port}/0",
                IBEX_AUTH_DATABASE_URL=f"postgresql://{AUTH_ROLE}@127.0.0.1:{relays['auth-postgres'].port}/{postgres.name}",
            )
            direct = production.environ["IBEX_AUTH_ADDRESS"]
            host, _, port = direct.partition(":")
            relays["proxy-auth"] = stack.enter_context(Relay.running((host, int(port))))
            address = production.start_proxy(
                workers=2,
                IBEX_DATABASE_URL=f"postgresql://{APP_ROLE}@127.0.0.1:{relays['proxy-postgres'].port}/{postgres.name}",
                IBEX_REDIS_URL=redis_url or f"redis://127.0.0.1:{relays['proxy-redis'].port}/0",
                IBEX_AUTH_ADDRESS=f"127.0.0.1:{relays['proxy-auth'].port}",
            )
            yield cls(production, relays, redis, auth, direct, address, installation, postgres)

    def revoke_under(
        self,
        break_it: Callable[[], object] = lambda: None,
        mend_it: Callable[[], object] = lambda: None,
        *,
        by: Revoker = "auth",
    ) -> Outcome:
        """Under load of two tokens, inject a fault, revoke one token, record the responses, and remove the fault."""
        doomed, live = self.new_token(), self.new_token()
        with (
            Load(self.address, doomed.reveal, self.clients, a_second=self.a_second).running() as load,
            Load(self.address, live.reveal, self.clients, a_second=self.a_second).running() as other,
        ):
            for one in (load, other):
                one.wait_for(200, 0.0, AFTER_S)
            settled = time.monotonic()
            for one in (load, other):
                one.wait_for(200, settled, AFTER_S)
            broken = time.monotonic()
            break_it()
            try:
                self.revoke(doomed, by)
                revoked = time.monotonic()
                while time.monotonic() < max(revoked + AFTER_S, load.last(200) + AFTER_S / 2):
                    time.sleep(0.05)  # nothing signals the absence of an event
                    if time.monotonic() > revoked + 2 * AFTER_S:
                        break
            finally:
                mend_it()
            mended = time.monotonic()
            other.wait_for(200, mended, 2 * AFTER_S)
            load.wait_for(401, mended, 2 * AFTER_S)
        return Outcome(max(0.0, load.last(200) - revoked), dict(other.statuses(broken)), dict(load.statuses(revoked)))

    def new_token(self) -> PersonalAccessToken:
        """Create a token that is bound to the first agent."""
        org_id, agent_id = self.installation.organization.id, self.installation.agent.id

        async def create(use_cases: Administration) -> PersonalAccessToken:
            return await use_cases.identity.create_token(org_id, TokenGrant("t", AGENT_DEFAULT, agent_id=agent_id))

        return asyncio.run(_administer(Settings.load(self.production.environ), create))

    def revoke(self, token: PersonalAccessToken, by: Revoker) -> None:
        """Revoke a token, and return once the revocation is committed."""
        org_id = self.installation.organization.id
        if by == "auth":
            self._revoke_at_auth(org_id, token.token_id)
        elif by == "sql":
            self.sql("UPDATE tokens SET revoked_at = now() WHERE id = %s", token.token_id)
        else:
            settings = Settings.load(self.production.environ)
            asyncio.run(
                _administer(settings, lambda use_cases: use_cases.identity.revoke_token(org_id, token.token_id))
            )

    def sql(self, statement: LiteralString, *values: object) -> None:
        """Commit a change directly in PostgreSQL, as its superuser."""
        with psycopg.connect(self.database.superuser_url) as connection:
            connection.execute(statement, values)

    def _revoke_at_auth(self, org_id: UUID, token_id: UUID) -> None:
        with grpc.insecure_channel(self.direct_auth) as channel:
            auth_pb2_grpc.AuthServiceStub(channel).RevokeToken(
                auth_pb2.RevokeTokenRequest(org_id=str(org_id), token_id=str(token_id)),
                metadata=(("authorization", f"Bearer {self.installation.admin_token.reveal()}"),),
                timeout=AFTER_S,
            )

    def freeze_worker(self) -> None:
        """Stop one of the workers with SIGSTOP."""
        os.kill(min(self.production.workers()), signal.SIGSTOP)

    def thaw_worker(self) -> None:
        """Resume the worker."""
        os.kill(min(self.production.workers()), signal.SIGCONT)

    def flush_redis(self) -> None:
        """Remove everything from Redis."""
        self.redis.command("FLUSHALL")

    def freeze_auth(self) -> None:
        """Stop auth with SIGSTOP."""
        self.auth.process.send_signal(signal.SIGSTOP)

    def thaw_auth(self) -> None:
        """Resume auth."""
        self.auth.process.send_signal(signal.SIGCONT)


@dataclass(frozen=True, slots=True)
class Servers:
    """The migrated servers of a benchmark, and a folder for the processes that use them."""

    postgres: PostgresDatabase
    clickhouse: ClickHouseDatabase
    redis: RedisServer
    folder: Path

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Servers]:
        """Start the servers, and stop them afterwards."""
        folder = Path(tempfile.mkdtemp(prefix="ibex-bench-"))
        program = redis_server_program()
        if program is None:
            raise SystemExit("there is no redis-server")
        postgres, engine = PostgresServer(folder / "postgres"), ClickHouseEngine(folder / "clickhouse")
        redis = RedisServer.on_free_port(program)
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder)
            for server in (postgres, engine):
                stack.callback(server.stop)
                server.start()
            stack.callback(redis.kill)
            redis.start()
            database = PostgresDatabase(postgres, DATABASE)
            postgres_migrate.upgrade(database.owner_url)
            traces = ClickHouseDatabase(f"{engine.url.rstrip('/')}/ibex", "ibex")
            migrate_clickhouse(traces.url)
            yield cls(database, traces, redis, folder)


@contextmanager
def relayed_stack(**environ: str) -> Iterator[RelayedStack]:
    """Start such a stack with its own servers, for a benchmark; ``environ`` is for all of its processes."""
    with (
        Servers.running() as own,
        RelayedStack.running(own.postgres, own.clickhouse, own.redis, own.folder, **environ) as stack,
    ):
        yield stack


async def _administer(settings: Settings, work: Callable[[Administration], Awaitable[T]]) -> T:
    async with administration(settings) as use_cases:
        return await work(use_cases)


async def _bootstrap(use_cases: Administration) -> Installation:
    names = InstallationNames("acme", "a@acme.example", "one", "Be brief.")
    return await bootstrap(use_cases.identity, use_cases.directives, names)
