"""The administrative use cases over the configured servers, for the command line."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ibex.adapters.system.file_epochs import FileEpochs
from ibex.entrypoints.containers import Management
from ibex.entrypoints.environments import OperatorAdapters
from ibex.entrypoints.settings import Environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ibex.domain.directives.management import ManageDirectives
    from ibex.domain.identity.management import ManageIdentity
    from ibex.domain.record.history import SessionHistory, TraceHistory
    from ibex.entrypoints.settings import Settings

NEEDED = ("database_url", "auth_database_url", "clickhouse_url", "token_peppers")
"""The field names of the required settings."""


@dataclass(frozen=True, slots=True)
class Administration:
    """The administrative use cases, over opened adapters."""

    identity: ManageIdentity
    directives: ManageDirectives
    sessions: SessionHistory
    traces: TraceHistory


@asynccontextmanager
async def administration(settings: Settings, epoch_file: Path | None = None) -> AsyncIterator[Administration]:
    """Open the adapters, and close them afterwards. A server that is down causes an error at its first use, not here.

    ``epoch_file`` is the file in which the changed instance has its epoch; None if it has none, or has it in Redis.

    Raises ``SettingsError`` if a setting of ``NEEDED``, or in production ``IBEX_REDIS_URL``, is not set.
    """
    settings.require(*NEEDED)
    if settings.env is Environment.PRODUCTION:
        settings.require("redis_url")  # a change replaces the organization's epoch there
    adapters = OperatorAdapters()
    adapters.settings.override(settings)
    if epoch_file is not None:
        adapters.epochs.override(FileEpochs(epoch_file, adapters.clock(), adapters.ids()))
    management = Management(adapters=adapters)
    async with AsyncExitStack() as stack:
        for resource in adapters.resources():
            stack.push_async_callback(resource.close)
            await resource.open()
        link = adapters.link()
        if link is not None:
            stack.push_async_callback(link.close)
            await link.open()
        yield Administration(
            identity=management.identity(),
            directives=management.directives(),
            sessions=adapters.sessions(),
            traces=adapters.traces(),
        )
