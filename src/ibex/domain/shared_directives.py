"""Directives between a worker's memory and the source: what one worker has looked up, the others need not (spec 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.directives import Directive
    from ibex.domain.freshness import Stamp


@dataclass(frozen=True, slots=True)
class SharedDirective:
    """What was looked up for an agent: a directive, or that there is none."""

    directive: Directive | None


class SharedDirectives(Protocol):
    """Port: a cache that all workers share. It may lose anything at any time; it never raises.

    What is put under a stamp was fetched after that stamp was read, so it is as good as the source for as long as that
    very stamp is read again (``freshness``). Under any other stamp it is as good as nothing.
    """

    async def get(self, org_id: UUID, agent_id: UUID, stamp: Stamp) -> SharedDirective | None:
        """Return what was put under this very stamp; None if that is nothing, or nobody can be asked in time."""

    async def put(self, org_id: UUID, agent_id: UUID, stamp: Stamp, shared: SharedDirective) -> None:
        """Keep it for the others, for a minute or as long as is set."""
