"""The proxy as a process: one worker, or a supervisor with several of them."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

import uvloop

from ibex.adapters.telemetry.logging import configure_logging
from ibex.adapters.telemetry.shared_memory import SharedMemorySegment
from ibex.entrypoints.acceptor import ConnectionBalancer
from ibex.entrypoints.ops_server import listen_for_ops, serving_ops
from ibex.entrypoints.process_tuning import prepare_descriptors
from ibex.entrypoints.proxy_server import BACKLOG, address_of, listen, serve_http
from ibex.entrypoints.settings import Environment, MissingSettingError, Settings, SettingsError
from ibex.entrypoints.start_warnings import warn_of_environment
from ibex.entrypoints.workers import WorkerSlot, end_with_parent, supervise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ibex.entrypoints.environments import EmbeddedAdapters, ProductionAdapters

_LOG = logging.getLogger("ibex.serve")
_SERVERS: Final = ("auth_address", "redis_url", "database_url", "clickhouse_url")


def serve(environ: Mapping[str, str], workers: int = 1) -> int:
    """Run the proxy with the settings in ``environ``, and return its exit code.

    Several workers get ``environ`` as their environment. Raises ``SettingsError`` if a required setting is missing, and
    ``OSError`` if the address cannot be bound.
    """
    settings = Settings.load(environ)
    configure_logging(settings.log_level)
    settings.require_provider()
    if workers > 1:
        _require_shared_servers(settings)
    _is_embedded(settings)
    warn_of_environment(settings, environ)
    if workers > 1:
        return supervise(settings, environ, workers)
    with listen(settings.host, settings.port) as listener, listen_for_ops(settings, listener) or nullcontext() as ops:
        return _run(settings, listener, WorkerSlot(-1, -1, 0), ops)


def serve_as_worker(settings: Settings, slot: WorkerSlot) -> int:
    """Run one of several workers on the socket of its slot, and return its exit code."""
    configure_logging(settings.log_level)
    inherited = socket.socket(fileno=slot.ops) if slot.ops >= 0 else nullcontext()
    with socket.socket(fileno=slot.listener) as listener, inherited as ops:
        return _run(settings, listener, slot, ops)


def adapters_for(settings: Settings) -> EmbeddedAdapters | ProductionAdapters:
    """Return production adapters if auth or Redis is configured, and embedded adapters otherwise.

    With ``IBEX_ENV=production`` it returns production adapters. Raises ``SettingsError`` if a setting is missing.
    """
    # Imported here and in ``_run``, because the supervisor does not need them: they take a second and 60 MiB.
    from ibex.entrypoints.environments import EmbeddedAdapters, ProductionAdapters  # noqa: PLC0415

    return EmbeddedAdapters() if _is_embedded(settings) else ProductionAdapters()


def _is_embedded(settings: Settings) -> bool:
    if settings.auth_address is None and settings.redis_url is None and settings.env is not Environment.PRODUCTION:
        settings.require("database_url", "auth_database_url", "clickhouse_url", "token_peppers")
        return True
    settings.require(*_SERVERS)
    return False


def _require_shared_servers(settings: Settings) -> None:
    try:
        settings.require(*_SERVERS)
    except MissingSettingError as missing:
        raise MissingSettingError(
            f"{missing}\nSeveral workers share PostgreSQL, ClickHouse, auth and Redis. Set these, or use one worker."
        ) from None
    if settings.clickhouse_url is not None and settings.clickhouse_url.reveal().startswith("chdb:"):
        raise SettingsError(
            "IBEX_CLICKHOUSE_URL is chdb://, which only one process can use. Several workers need a ClickHouse server."
        )


def _run(settings: Settings, listener: socket.socket, slot: WorkerSlot, ops: socket.socket | None) -> int:
    from ibex.entrypoints.containers import application_of  # noqa: PLC0415
    from ibex.entrypoints.lifespan import running  # noqa: PLC0415

    prepare_descriptors(settings)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's core would write lines that are not JSON

    async def run() -> None:
        if slot.parent_pipe >= 0:
            end_with_parent(slot.parent_pipe)
        adapters = adapters_for(settings)
        balancer = ConnectionBalancer()
        if slot.metrics >= 0:
            segments = SharedMemorySegment.all_of(slot.metrics)
            adapters.metric_segments.override(segments)
            adapters.own_segment.override(slot.number)
            balancer = ConnectionBalancer(segments, slot.number)
        application = application_of(adapters, settings)
        app = application.app()
        async with running(application), serving_ops(application.ops_app() if ops else None, ops, settings):
            listener.listen(BACKLOG)
            _LOG.info("listening on %s", address_of(listener) + settings.base_path)
            await serve_http(app, listener, settings, application.drain().begin, balancer)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    return 0
