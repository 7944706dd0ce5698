"""The auth service as a process: gRPC for proxies and administrators, HTTP for health and metrics."""

from __future__ import annotations

import asyncio
import logging
import os
import resource as limits
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Final

import uvloop

from ibex.adapters.grpc.server import AuthServer, ServerLimits, ServerSecurity, connections_within
from ibex.adapters.grpc.service import IdentityUseCases
from ibex.adapters.http_server.app import create_ops_app
from ibex.adapters.http_server.drain import Drain
from ibex.adapters.telemetry.auth_calls import AuthCallTelemetry
from ibex.adapters.telemetry.logging import configure_logging
from ibex.adapters.telemetry.ops import OpsTelemetry
from ibex.entrypoints.auth_connection import server_tls
from ibex.entrypoints.containers import Management
from ibex.entrypoints.environments import AuthAdapters
from ibex.entrypoints.foreign_variables import ignored_variables
from ibex.entrypoints.lifespan import in_background
from ibex.entrypoints.listening import BACKLOG, address_of, listen
from ibex.entrypoints.process_tuning import raise_limit
from ibex.entrypoints.proxy_server import end_start_on_signal, serve_http
from ibex.entrypoints.rotation import auth_files
from ibex.entrypoints.settings import variables

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from ibex.entrypoints.settings import Settings

OTHER_DESCRIPTORS: Final = 128
"""Descriptors reserved for everything but gRPC connections: databases, Redis, logs, the ops port."""
_LOG = logging.getLogger("ibex.auth")


def serve(settings: Settings, environ: Mapping[str, str] | None = None) -> int:
    """Run the auth service until SIGINT or SIGTERM, and return its exit code.

    ``environ`` is what the settings were read from; a warning names what of it was ignored. Raises ``SettingsError`` if
    a required setting is missing, and ``OSError`` if an address cannot be bound.
    """
    configure_logging(settings.log_level)
    for message in ignored_variables(environ or {}, [variable for _, variable in variables()]):
        _LOG.warning("%s", message)
    raise_limit()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's core would write lines that are not JSON
    settings.require("auth_database_url", "token_peppers", "redis_url")
    settings.require_service_identity()
    host, _, port = settings.auth_ops_listen.rpartition(":")
    with (
        listen(host.strip("[]"), int(port), "IBEX_AUTH_OPS_LISTEN") as ops,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        suppress(asyncio.CancelledError),  # a signal has ended the start
    ):
        runner.run(_serve(settings, ops))
    return 0


async def _serve(settings: Settings, ops: socket.socket) -> None:
    end_start_on_signal()
    adapters = AuthAdapters()
    adapters.settings.override(settings)
    drain, server = Drain(), _server(settings, adapters)
    ops_app = create_ops_app(
        clock=adapters.clock(),
        ids=adapters.ids(),
        render_metrics=adapters.metrics().render,
        readiness_checks=adapters.checks(),
        drain=drain,
        observer=OpsTelemetry(adapters.metrics()),
    )

    def begin_to_drain() -> None:
        drain.begin()
        server.begin_to_drain()

    async with AsyncExitStack() as stack:
        for resource in adapters.resources():
            stack.push_async_callback(resource.close)
            await resource.open()
        background = [*adapters.background(), auth_files(settings, adapters, server)]
        await stack.enter_async_context(in_background(background))
        stack.push_async_callback(server.stop)
        try:
            await server.start()
        except OSError as error:
            raise OSError(f"{error}. Choose another address with IBEX_AUTH_LISTEN (port 0 for any free port)") from None
        ops.listen(BACKLOG)
        _LOG.info("serving gRPC on port %d, health and metrics on %s", server.port, address_of(ops))
        await serve_http(ops_app, ops, settings, begin_to_drain)


def _server(settings: Settings, adapters: AuthAdapters) -> AuthServer:
    tokens = settings.service_tokens
    use_cases = IdentityUseCases(
        tokens=adapters.token_verifier(),
        agents=adapters.agent_verifier(),
        administrators=adapters.administrator_verifier(),
        manage=Management(adapters=adapters).identity(),
        watch=adapters.watch_service(),
    )
    server = AuthServer(
        settings.auth_listen,
        use_cases,
        adapters.ids(),
        adapters.clock(),
        security=ServerSecurity(tokens[-1] if tokens else None, server_tls(settings)),
        observer=AuthCallTelemetry(adapters.metrics()),
        limits=_limits(settings),
    )
    if tokens:
        server.accept_credentials(tokens)
    return server


def _limits(settings: Settings) -> ServerLimits:
    descriptors, _ = limits.getrlimit(limits.RLIMIT_NOFILE)
    if descriptors == limits.RLIM_INFINITY:
        return ServerLimits(authentication_timeout_s=settings.header_timeout_s)
    room = connections_within(descriptors, OTHER_DESCRIPTORS)
    return ServerLimits(max_connections=room, authentication_timeout_s=settings.header_timeout_s)
