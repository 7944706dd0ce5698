"""Directives in a dictionary."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ibex.domain.directives.management import DirectiveState, DirectiveVersion
from ibex.domain.directives.model import Directive, InjectionMode
from ibex.domain.freshness.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from harness.memory.change_log import InMemoryChangeLog
    from ibex.domain.clock import Clock
    from ibex.domain.directives.management import DirectiveDraft
    from ibex.domain.identity.management import IdentityStore


class InMemoryDirectives:
    """An in-memory ``DirectiveStore``, ``DirectiveLookup`` and ``DirectiveVersions``."""

    def __init__(self, identity: IdentityStore, clock: Clock, change_log: InMemoryChangeLog | None = None) -> None:
        """Take the store of the agents and, optionally, the log to which changes are appended."""
        self._identity = identity
        self._clock = clock
        self._change_log = change_log
        self._states: dict[tuple[UUID, UUID], DirectiveState] = {}
        self._versions: dict[tuple[UUID, UUID], list[DirectiveVersion]] = {}

    async def active(self, org_id: UUID, agent_id: UUID) -> Directive | None:
        """Return the directive in force, or None; see ``DirectiveLookup``."""
        state = self._states.get((org_id, agent_id))
        if state is None or not state.is_active:
            return None
        version = state.version
        return Directive(version.id, version.number, state.mode, version.text, version.sha256)

    async def version(self, org_id: UUID, version_id: UUID) -> Directive | None:
        """Return a version, or None; see ``DirectiveVersions``."""
        for (owner, agent_id), versions in self._versions.items():
            for found in versions:
                if owner == org_id and found.id == version_id:
                    mode = found.mode or self._states[owner, agent_id].mode
                    return Directive(found.id, found.number, mode, found.text, found.sha256)
        return None

    async def add_version(
        self, org_id: UUID, agent_id: UUID, draft: DirectiveDraft, mode: InjectionMode | None
    ) -> DirectiveState | None:
        """Add a version and put it in force; see ``DirectiveStore``."""
        if await self._identity.find_agent(org_id, agent_id) is None:
            return None
        key = (org_id, agent_id)
        before = self._states.get(key)
        if before is not None and before.already_has(draft, mode):
            return before
        versions = self._versions.setdefault(key, [])
        number = len(versions) + 1
        mode = mode or (before.mode if before is not None else InjectionMode.SYSTEM_FIRST)
        version = DirectiveVersion(draft.id, number, draft.text, draft.sha256, draft.author, draft.created_at, mode)
        versions.append(version)
        previous = before.version.number if before is not None else None
        now = self._clock.now()
        self._states[key] = DirectiveState(
            agent_id, mode, is_active=True, version=version, changed_at=now, previous_number=previous
        )
        self._changed(org_id)
        return self._states[key]

    async def state(self, org_id: UUID, agent_id: UUID) -> DirectiveState | None:
        """Return the directive; None if the agent has none."""
        return self._states.get((org_id, agent_id))

    async def history(self, org_id: UUID, agent_id: UUID) -> Sequence[DirectiveVersion]:
        """Return all versions, newest first; empty if the agent has no directive."""
        return self._versions.get((org_id, agent_id), [])[::-1]

    async def activate(self, org_id: UUID, agent_id: UUID, number: int) -> DirectiveState | None:
        """Put a version in force and activate the directive; None if there is no such version."""
        versions = self._versions.get((org_id, agent_id), [])
        if not 1 <= number <= len(versions):
            return None
        return self._change((org_id, agent_id), is_active=True, version=versions[number - 1])

    async def deactivate(self, org_id: UUID, agent_id: UUID) -> DirectiveState | None:
        """Stop injecting; None if the agent has no directive."""
        before = self._states.get((org_id, agent_id))
        if before is None:
            return None
        return self._change((org_id, agent_id), is_active=False, version=before.version)

    def _change(self, key: tuple[UUID, UUID], *, is_active: bool, version: DirectiveVersion) -> DirectiveState:
        before = self._states[key]
        stays = before.version == version
        self._states[key] = replace(
            before,
            mode=version.mode or before.mode,
            is_active=is_active,
            version=version,
            changed_at=self._clock.now(),
            previous_number=before.previous_number if stays else before.version.number,
        )
        self._changed(key[0])
        return self._states[key]

    def _changed(self, org_id: UUID) -> None:
        if self._change_log is not None:
            self._change_log.append(org_id, Kind.DIRECTIVES)
