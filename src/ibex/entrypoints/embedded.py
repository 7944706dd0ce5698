"""The embedded default, ``ibex dev``: the proxy, with PostgreSQL and the ClickHouse engine from wheels."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import uvloop

from ibex.adapters.clickhouse.engine import ClickHouseEngine, EngineStartError
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE
from ibex.adapters.postgres.server import OWNER_ROLE, PostgresServer, PostgresServerError
from ibex.adapters.system.file_epochs import FileEpochs
from ibex.adapters.telemetry.logging import configure_logging
from ibex.entrypoints.containers import Management, application_of
from ibex.entrypoints.environments import EmbeddedAdapters
from ibex.entrypoints.first_installation import InstallationNames, bootstrap
from ibex.entrypoints.foreign_variables import without_kubernetes
from ibex.entrypoints.home import ECHO, FirstInstallation
from ibex.entrypoints.keep_running import KeepRunning, Server
from ibex.entrypoints.lifespan import in_background, running
from ibex.entrypoints.listening import BACKLOG, address_of, listen, listen_near
from ibex.entrypoints.migrations import migrate
from ibex.entrypoints.openai_settings import Transport
from ibex.entrypoints.ops_server import listen_for_ops, serving_ops
from ibex.entrypoints.process_tuning import prepare_descriptors
from ibex.entrypoints.proxy_server import end_start_on_signal, serve_http
from ibex.entrypoints.rotation import proxy_files
from ibex.entrypoints.setting_files import is_set, layered
from ibex.entrypoints.settings import Settings
from ibex.entrypoints.start_warnings import warn_of_environment

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path
    from typing import TextIO

    from ibex.domain.record.recorder import ExchangeObserver
    from ibex.entrypoints.containers import Application
    from ibex.entrypoints.home import Home

ANNOUNCED = (
    "IBEX_DATABASE_URL",
    "IBEX_AUTH_DATABASE_URL",
    "IBEX_OWNER_DATABASE_URL",
    "IBEX_CLICKHOUSE_URL",
    "IBEX_TOKEN_PEPPERS",
)
"""The settings that other commands need to reach the running servers."""
ONE_WORKER = "5"
"""The maximum number of batches of traces that one worker writes in a second."""
FIRST_DIRECTIVE = "You are a helpful assistant. Answer briefly and say so when you do not know."
"""The first agent's directive, until its operator changes it."""


class Console(Protocol):
    """The terminal output of ``ibex dev``."""

    @property
    def observer(self) -> ExchangeObserver:
        """An observer that prints each recorded exchange."""

    def starting(self, what: str) -> None:
        """Report that a slow step begins."""

    def ready(self, address: str, installation: FirstInstallation, settings: Settings) -> None:
        """Report that the proxy accepts requests."""

    def stopping(self) -> None:
        """Report that the shutdown begins."""

    def stopped(self) -> None:
        """Report that every process has ended."""


@dataclass(frozen=True, slots=True)
class _Servers:
    postgres: PostgresServer
    clickhouse: ClickHouseEngine

    def supervised(self) -> tuple[Server, ...]:
        """Return both servers, for ``KeepRunning``."""
        return (
            Server("PostgreSQL", lambda: self.postgres.pid is not None, self.postgres.start),
            Server("the ClickHouse engine", lambda: self.clickhouse.running, self.clickhouse.start),
        )

    def environ(self) -> dict[str, str]:
        """Return the environment variables that contain the servers' URLs."""
        return {
            "IBEX_DATABASE_URL": self.postgres.url(APP_ROLE),
            "IBEX_AUTH_DATABASE_URL": self.postgres.url(AUTH_ROLE),
            "IBEX_OWNER_DATABASE_URL": self.postgres.url(OWNER_ROLE),
            "IBEX_CLICKHOUSE_URL": self.clickhouse.url,
            "IBEX_CLICKHOUSE_CLUSTER": "",
        }


def run(home: Home, environ: Mapping[str, str], console: Console) -> int:
    """Start the servers in a folder, serve until a signal arrives, and stop the servers. Return the exit code.

    Raises ``HomeInUseError``, ``SettingsError``, and ``OSError`` if the address is in use or a server does not start.
    """
    _end_on_hangup()
    with home.claim():
        own = {"IBEX_TOKEN_PEPPERS": home.token_peppers(), "IBEX_JOURNAL_DIR": str(home.journal)}
        if not is_set(environ, "IBEX_DRAIN_DELAY"):
            own["IBEX_DRAIN_DELAY"] = "0"  # no load balancer has to notice that it ends
        environ = layered({"IBEX_TRACE_BATCHES_PER_SECOND": ONE_WORKER}, environ, own)
        wanted = Settings.load(environ)
        with _open_log(home.log) as log, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            configure_logging(wanted.log_level, log)
            warn_of_environment(wanted, environ)
            prepare_descriptors(wanted)
            code = 0
            try:
                chosen_port = is_set(without_kubernetes(environ), "IBEX_PORT")
                runner.run(_run(home, environ, wanted, console, chosen_port=chosen_port))
            except KeyboardInterrupt:  # before the proxy served requests
                code = 128 + signal.SIGINT
            except asyncio.CancelledError:
                code = 128 + signal.SIGTERM
    console.stopped()
    return code


def _end_on_hangup() -> None:
    """Handle SIGHUP like SIGTERM, so that closing the terminal stops the servers. ``nohup`` still ignores it."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))


def _open_log(path: Path) -> TextIO:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    return os.fdopen(descriptor, "a", buffering=1, encoding="utf-8")


async def _run(
    home: Home, environ: Mapping[str, str], wanted: Settings, console: Console, *, chosen_port: bool
) -> None:
    end_start_on_signal()
    adapters = EmbeddedAdapters()
    with (
        _listen(wanted, chosen=chosen_port) as listener,
        listen_for_ops(wanted, listener) or nullcontext() as ops,
        FileEpochs(home.epoch, adapters.clock(), adapters.ids()) as epochs,
    ):
        console.starting("PostgreSQL and the ClickHouse engine")
        async with _servers(home) as servers:
            environ = layered(environ, servers.environ())
            settings = Settings.load(environ)
            await asyncio.to_thread(migrate, settings)
            adapters.epochs.override(epochs)
            application = application_of(adapters, settings, observers=[console.observer])
            app = application.app()
            async with (
                running(application, proxy_files(settings, adapters)),
                serving_ops(application.ops_app() if ops else None, ops, settings),
            ):
                installation = home.installation() or await _install(home, Management(adapters=adapters))
                listener.listen(BACKLOG)  # from now on, clients wait in the backlog
                address = address_of(listener) + settings.base_path
                home.announce(address, {name: environ[name] for name in ANNOUNCED}, _provider(settings))
                console.ready(address, installation, settings)
                await serve_http(app, listener, settings, lambda: _begin_to_stop(application, console))


def _provider(settings: Settings) -> str | None:
    """Return the provider to announce; None if it may be behind a forward proxy, which other commands do not use."""
    if settings.openai_api_key is None:
        return ECHO
    return settings.openai_base_url if settings.openai_transport is Transport.DIRECT else None


def _begin_to_stop(application: Application, console: Console) -> None:
    if not application.drain().begun:
        console.stopping()
    application.drain().begin()


def _listen(settings: Settings, *, chosen: bool) -> socket.socket:
    """Bind the port. If it is in use, take one of the next ones, unless the user has chosen the port."""
    if not chosen:
        return listen_near(settings.host, settings.port)
    return listen(settings.host, settings.port, "IBEX_PORT or --port")


@asynccontextmanager
async def _servers(home: Home) -> AsyncIterator[_Servers]:
    """Start both servers concurrently, restart one if it ends, and stop both afterwards."""
    servers = _Servers(PostgresServer(home.postgres), ClickHouseEngine(home.clickhouse))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, servers.postgres.stop)
        stack.push_async_callback(asyncio.to_thread, servers.clickhouse.stop)
        starting = asyncio.gather(
            asyncio.to_thread(servers.postgres.start),
            asyncio.to_thread(servers.clickhouse.start),
            return_exceptions=True,
        )
        try:
            outcomes = await asyncio.shield(starting)
        except asyncio.CancelledError:
            await starting  # a running start must end before it can be undone
            raise
        for outcome in outcomes:
            if isinstance(outcome, (PostgresServerError, EngineStartError)):
                raise OSError(str(outcome)) from outcome  # not a bug, but for example a full disk
            if isinstance(outcome, BaseException):
                raise outcome
        async with in_background([KeepRunning(servers.supervised())]):
            yield servers


async def _install(home: Home, management: Management) -> FirstInstallation:
    """Create the first organization with its agent and tokens. If its name is taken, append a number."""
    identity = management.identity()
    taken = {organization.name for organization in await identity.organizations()}
    name = next(name for name in ("default", *(f"default-{n}" for n in range(2, 1_000))) if name not in taken)
    made = await bootstrap(
        identity, management.directives(), InstallationNames(name, "admin@localhost", "assistant", FIRST_DIRECTIVE)
    )
    installation = FirstInstallation(
        org_id=str(made.organization.id),
        org_name=made.organization.name,
        agent_id=str(made.agent.id),
        agent_name=made.agent.name,
        agent_token=made.agent_token.reveal(),
        admin_token=made.admin_token.reveal(),
    )
    home.remember_installation(installation)
    return installation
