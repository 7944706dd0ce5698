"""The shared cache of directives, between the cache of each worker and the source (ADR 0045)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.directives.model import Directive


@dataclass(frozen=True, slots=True)
class SharedDirective:
    """What was looked up for an agent: a directive, or that there is none."""

    directive: Directive | None


class SharedDirectives(Protocol):
    """Port: a cache that all workers share. It may lose anything at any time. Its methods never raise.

    A directive that is put under an epoch was fetched after that epoch was read.
    """

    async def get(self, org_id: UUID, agent_id: UUID, epoch: str) -> SharedDirective | None:
        """Return what was put under this epoch; None if nothing was, or if the cache does not answer in time."""

    async def put(self, org_id: UUID, agent_id: UUID, epoch: str, shared: SharedDirective) -> None:
        """Keep it for other workers, for ``IBEX_DIRECTIVE_CACHE_TTL``."""
