"""The shared cache of directives, between the cache of each worker and the source (ADR 0045)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.directives.model import Directive


@dataclass(frozen=True, slots=True)
class SharedDirective:
    """The result of a lookup for an agent: its directive, or None if it has none in force."""

    directive: Directive | None


class SharedDirectives(Protocol):
    """Port: a cache that all workers share. It may lose any entry at any time. Its methods never raise.

    The epoch is part of the key. A directive must have been fetched after its epoch was read.
    """

    async def get(self, org_id: UUID, agent_id: UUID, epoch: str) -> SharedDirective | None:
        """Return the entry of this epoch, or None if it is missing or the cache does not answer in time."""

    async def put(self, org_id: UUID, agent_id: UUID, epoch: str, shared: SharedDirective) -> None:
        """Store an entry for other workers, for ``IBEX_DIRECTIVE_CACHE_TTL``."""
