"""What the command line works with: the administrative use cases over the servers that the settings name."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ibex.domain.manage_directives import ManageDirectives
    from ibex.domain.manage_identity import ManageIdentity
    from ibex.domain.records import SessionHistory, TraceHistory
    from ibex.entrypoints.settings import Settings


@dataclass(frozen=True, slots=True)
class Administration:
    """The use cases, open and ready."""

    identity: ManageIdentity
    directives: ManageDirectives
    sessions: SessionHistory
    traces: TraceHistory


@asynccontextmanager
async def administration(settings: Settings) -> AsyncIterator[Administration]:
    """Open the use cases and close them afterwards; a server that is down fails at its first use, not here."""
    raise NotImplementedError
    yield
