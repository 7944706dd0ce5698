"""The proxy as a process: one worker, or a supervisor with several of them."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import uvloop

from ibex.adapters.telemetry.logging import configure_logging
from ibex.adapters.telemetry.shared_memory import SharedMemorySegment
from ibex.entrypoints.acceptor import ConnectionBalancer
from ibex.entrypoints.listening import BACKLOG, address_of, listen
from ibex.entrypoints.ops_server import listen_for_ops, serving_ops
from ibex.entrypoints.outcome import CommandFailedError
from ibex.entrypoints.process_tuning import prepare_descriptors
from ibex.entrypoints.proxy_server import SharedListener, end_start_on_signal, serve_http
from ibex.entrypoints.setting_files import SUFFIX
from ibex.entrypoints.settings import Environment, MissingSettingError, Settings, SettingsError
from ibex.entrypoints.start_warnings import warn_of_environment
from ibex.entrypoints.worker_process import WorkerSlot, end_with_parent
from ibex.entrypoints.workers import supervise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ibex.entrypoints.environments import EmbeddedAdapters, ProductionAdapters

_LOG = logging.getLogger("ibex.serve")
READY_TIMEOUT_S: Final = 15.0
"""The time that a worker has to become ready before it replaces another one."""
_OPS_LISTEN: Final = "IBEX_OPS_LISTEN"
_READY_POLL_S: Final = 0.1
_SERVERS: Final = ("auth_address", "redis_url", "database_url", "clickhouse_url")


def serve(read_environ: Callable[[], Mapping[str, str]], workers: int | None = None) -> int:
    """Run the proxy with the settings in the environment that ``read_environ`` returns, and return its exit code.

    With a number of workers, a supervisor runs them in this environment, and reads it again on SIGHUP. Raises
    ``SettingsError`` if a required setting is missing, and ``OSError`` if an address cannot be bound.
    """
    settings, environ = _checked_settings(read_environ, workers)
    configure_logging(settings.log_level)
    warn_of_environment(settings, environ)
    if workers is not None:
        return supervise(settings, environ, workers, lambda: _settings_again(read_environ, workers, settings))
    with listen(settings.host, settings.port) as listener, listen_for_ops(settings, listener) or nullcontext() as ops:
        return _run(settings, listener, ops, None)


def _checked_settings(
    read_environ: Callable[[], Mapping[str, str]], workers: int | None
) -> tuple[Settings, Mapping[str, str]]:
    environ = read_environ()
    settings = Settings.load(environ)
    settings.require_provider()
    if workers is not None:
        _require_shared_servers(settings, workers)
    _is_embedded(settings)
    return settings, environ


def _settings_again(
    read_environ: Callable[[], Mapping[str, str]], workers: int, first: Settings
) -> tuple[Settings, Mapping[str, str]] | None:
    """Return the settings for new workers, or None, with a line in the log, if they are not valid.

    ``first`` has the addresses of the sockets that the workers inherit. These do not change. Whether the proxy's own
    address has ``/metrics`` depends on ``IBEX_OPS_LISTEN``, so the new workers get its first value.
    """
    try:
        settings, environ = _checked_settings(read_environ, workers)
    except (SettingsError, OSError) as invalid:
        _LOG.error("the workers are not replaced: %s", invalid)
        return None
    warn_of_environment(settings, environ)
    if (settings.host, settings.port, settings.ops_listen) != (first.host, first.port, first.ops_listen):
        _LOG.warning(
            "IBEX_HOST, IBEX_PORT or IBEX_OPS_LISTEN has changed. Restart `ibex serve` to listen on another address."
        )
    kept = {name: value for name, value in environ.items() if name not in {_OPS_LISTEN, _OPS_LISTEN + SUFFIX}}
    return replace(settings, ops_listen=first.ops_listen), {**kept, _OPS_LISTEN: first.ops_listen or ""}


def serve_as_worker(settings: Settings, slot: WorkerSlot) -> int:
    """Run one of several workers on the sockets of its slot, and return its exit code."""
    configure_logging(settings.log_level)
    inherited = socket.socket(fileno=slot.ops) if slot.ops >= 0 else nullcontext()
    with socket.socket(fileno=slot.listener) as listener, inherited as ops:
        return _run(settings, listener, ops, slot)


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


def _require_shared_servers(settings: Settings, workers: int) -> None:
    try:
        if workers > 1:
            settings.require(*_SERVERS)
    except MissingSettingError as missing:
        raise MissingSettingError(
            f"{missing}\nSeveral workers share PostgreSQL, ClickHouse, auth and Redis. Set these, or use one worker.",
            missing.names,
        ) from None
    if settings.clickhouse_url is not None and settings.clickhouse_url.reveal().startswith("chdb:"):
        raise SettingsError(
            "IBEX_CLICKHOUSE_URL is chdb://, which only one process can use. Workers need a ClickHouse server."
            " Set its URL, or leave out --workers."
        )


def _run(settings: Settings, listener: socket.socket, ops: socket.socket | None, slot: WorkerSlot | None) -> int:
    from ibex.entrypoints.containers import application_of  # noqa: PLC0415
    from ibex.entrypoints.lifespan import running  # noqa: PLC0415
    from ibex.entrypoints.rotation import proxy_files  # noqa: PLC0415

    prepare_descriptors(settings)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's core would write lines that are not JSON

    async def run() -> None:
        end_start_on_signal()
        adapters, shared = adapters_for(settings), None
        if slot is not None:
            end_with_parent(slot.parent_pipe)
            segments = SharedMemorySegment.all_of(slot.metrics)
            adapters.metric_segments.override(segments)
            adapters.own_segment.override(slot.number)
            shared = SharedListener(ConnectionBalancer(segments, slot.number), slot.report_serving)
        application = application_of(adapters, settings)
        app = application.app()
        async with running(application, proxy_files(settings, adapters)):
            if slot is not None and slot.replaces:
                await _wait_until_ready(adapters)
            async with serving_ops(application.ops_app() if ops else None, ops, settings, is_shared=slot is not None):
                listener.listen(BACKLOG)
                _LOG.info("listening on %s", address_of(listener) + settings.base_path)
                await serve_http(app, listener, settings, application.drain().begin, shared)

    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        suppress(asyncio.CancelledError),  # a signal has ended the start
    ):
        runner.run(run())
    return 0


async def _wait_until_ready(adapters: EmbeddedAdapters | ProductionAdapters) -> None:
    """Wait until requests can be served. Raises ``CommandFailedError`` if that takes too long."""
    from ibex.adapters.http_server.drain import Drain  # noqa: PLC0415 - as in ``_run``
    from ibex.adapters.http_server.readiness import Health, Readiness  # noqa: PLC0415 - the same reason

    readiness = Readiness(adapters.checks(), Drain(), adapters.clock())
    loop = asyncio.get_running_loop()
    deadline = loop.time() + READY_TIMEOUT_S
    while (report := await readiness.report()).status is Health.UNHEALTHY:
        if loop.time() > deadline:
            failed = ", ".join(name for name, check in report.checks.items() if check.critical)
            raise CommandFailedError(f"The new worker is not ready after {READY_TIMEOUT_S:.0f} s: {failed} failed.")
        await asyncio.sleep(_READY_POLL_S)
