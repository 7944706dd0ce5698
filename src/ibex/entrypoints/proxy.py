"""The proxy as a process: the application between its opened adapters and the HTTP server."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import TYPE_CHECKING, Final

import uvloop

from ibex.adapters.telemetry.logging import configure_logging
from ibex.adapters.telemetry.shared_memory import SharedMemorySegment
from ibex.entrypoints.acceptor import ConnectionBalancer
from ibex.entrypoints.process_tuning import prepare_descriptors
from ibex.entrypoints.proxy_server import BACKLOG, address_of, listen, serve_http
from ibex.entrypoints.settings import Environment, MissingSettingError, Settings, SettingsError
from ibex.entrypoints.tracing import check_tracing
from ibex.entrypoints.workers import WorkerSlot, end_with_parent, watch_over

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ibex.entrypoints.environments import EmbeddedAdapters, ProductionAdapters

_LOG = logging.getLogger("ibex.serve")
_SERVERS: Final = ("auth_address", "redis_url", "database_url", "clickhouse_url")


def serve(environ: Mapping[str, str], workers: int = 1) -> int:
    """Run the proxy with the servers of the settings; return its exit code.

    The settings are read from ``environ``; several workers get the same as their environment. Raises ``SettingsError``
    if a server is not named, and ``OSError`` if the address cannot be listened on.
    """
    settings = Settings.load(environ)
    configure_logging(settings.log_level)
    settings.require_provider()
    if workers > 1:
        _refuse_unfit_for_several(settings)
    _is_embedded(settings)
    check_tracing(settings)
    if workers > 1:
        return watch_over(settings, environ, workers)
    with listen(settings.host, settings.port) as listener:
        return _run(settings, listener, WorkerSlot(-1, -1, 0))


def serve_as_worker(settings: Settings, place: WorkerSlot) -> int:
    """Run one of several workers, on the socket that it was given; return its exit code."""
    configure_logging(settings.log_level)
    with socket.socket(fileno=place.listener) as listener:
        return _run(settings, listener, place)


def adapters_for(settings: Settings) -> EmbeddedAdapters | ProductionAdapters:
    """Return the adapters that the settings choose: with auth and Redis by address, or with neither.

    Raises ``SettingsError`` if what these need is not named.
    """
    # Here, as in ``_run``, since who only watches over workers needs none of it: a second of importing, and 60 MiB.
    from ibex.entrypoints.environments import EmbeddedAdapters, ProductionAdapters  # noqa: PLC0415

    return EmbeddedAdapters() if _is_embedded(settings) else ProductionAdapters()


def _is_embedded(settings: Settings) -> bool:
    if settings.auth_address is None and settings.redis_url is None and settings.env is not Environment.PRODUCTION:
        settings.require("database_url", "auth_database_url", "clickhouse_url", "token_peppers")
        return True
    settings.require(*_SERVERS)
    return False


def _refuse_unfit_for_several(settings: Settings) -> None:
    try:
        settings.require(*_SERVERS)
    except MissingSettingError as missing:
        raise MissingSettingError(f"{missing}\nSeveral workers need all of them, auth and Redis too.") from None
    if settings.clickhouse_url is not None and settings.clickhouse_url.reveal().startswith("chdb:"):
        raise SettingsError(
            "IBEX_CLICKHOUSE_URL is chdb://, which is for one process alone; several workers need a server."
        )


def _run(settings: Settings, listener: socket.socket, place: WorkerSlot) -> int:
    from ibex.entrypoints.containers import application_of  # noqa: PLC0415
    from ibex.entrypoints.lifespan import running  # noqa: PLC0415

    prepare_descriptors(settings)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its core writes lines of its own, which are no JSON

    async def run() -> None:
        if place.parent_pipe >= 0:
            end_with_parent(place.parent_pipe)
        adapters = adapters_for(settings)
        share = ConnectionBalancer()
        if place.metrics >= 0:
            regions = SharedMemorySegment.all_of(place.metrics)
            adapters.metric_regions.override(regions)
            adapters.own_region.override(place.number)
            share = ConnectionBalancer(regions, place.number)
        application = application_of(adapters, settings)
        app = application.app()
        async with running(application):
            listener.listen(BACKLOG)
            _LOG.info("listening on %s", address_of(listener))
            await serve_http(app, listener, settings, application.drain().begin, share)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    return 0
