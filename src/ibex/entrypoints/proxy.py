"""The proxy as a process: the application between its opened adapters and the HTTP server."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import uvloop

from ibex.adapters.telemetry.logging import configure_logging
from ibex.entrypoints.containers import EmbeddedAdapters, application_of
from ibex.entrypoints.lifespan import running
from ibex.entrypoints.proxy_server import BACKLOG, address_of, listen, serve_http

if TYPE_CHECKING:
    from ibex.entrypoints.settings import Settings

_LOG = logging.getLogger("ibex.serve")


def serve(settings: Settings) -> int:
    """Run one proxy process against the servers that the settings name; return its exit code.

    Raises ``SettingsError`` if one of them is not named, and ``OSError`` if the address cannot be listened on.
    """
    configure_logging(settings.log_level)
    settings.require("database_url", "auth_database_url", "clickhouse_url", "token_peppers")

    async def run() -> None:
        application = application_of(EmbeddedAdapters(), settings)
        with listen(settings.host, settings.port) as listener:
            app = application.app()
            async with running(application):
                listener.listen(BACKLOG)
                _LOG.info("listening on %s", address_of(listener))
                await serve_http(
                    app,
                    listener,
                    shutdown_timeout_s=settings.shutdown_timeout_s,
                    on_drain=application.drain().begin,
                )

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    return 0
