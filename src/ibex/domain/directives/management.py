"""USE CASE: manage an agent's directive: set, show, compare, roll back and deactivate it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ibex.domain.directives.diff import Basis, DirectiveDiff, unified_lines
from ibex.domain.directives.model import check_text, text_hash
from ibex.domain.errors import NotFoundError
from ibex.domain.freshness.epochs import Changes

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine, Sequence
    from datetime import datetime
    from uuid import UUID

    from ibex.domain.clock import Clock
    from ibex.domain.directives.model import InjectionMode
    from ibex.domain.freshness.epochs import Epochs
    from ibex.domain.ids import IdSource


@dataclass(frozen=True, slots=True)
class DirectiveVersion:
    """One immutable version. ``number`` counts from 1 for each agent. The repr shows no text.

    ``mode`` is None if an older IBEX added the version, during an upgrade.
    """

    id: UUID
    number: int
    text: str = field(repr=False)
    sha256: str
    author: str
    created_at: datetime
    mode: InjectionMode | None


@dataclass(frozen=True, slots=True)
class DirectiveState:
    """An agent's directive, for operators: its current version, the mode, and whether it is injected.

    ``changed_at`` is when the version came into force or, if ``is_active`` is False, was deactivated.
    ``previous_number`` is the version that was in force before; None if there was none, or if it was not recorded.
    """

    agent_id: UUID
    mode: InjectionMode
    is_active: bool
    version: DirectiveVersion
    changed_at: datetime
    previous_number: int | None

    def already_has(self, draft: DirectiveDraft, mode: InjectionMode | None) -> bool:
        """Return whether the draft's text is in force in this mode; None means any mode."""
        return self.is_active and self.version.text == draft.text and mode in (None, self.mode)


@dataclass(frozen=True, slots=True)
class DirectiveDraft:
    """A version to be added, without a number yet. The repr shows no text."""

    id: UUID
    text: str = field(repr=False)
    sha256: str
    author: str
    created_at: datetime


class NoDirectiveError(NotFoundError):
    """The agent has no directive."""

    default_message = "The agent has no directive."


class DirectiveStore(Protocol):
    """Port: the store of directives. Every method raises ``ServiceDegradedError`` while the store is unavailable.

    A change raises ``OutcomeUnknownError`` if its commit is not answered within two seconds.
    """

    async def add_version(
        self, org_id: UUID, agent_id: UUID, draft: DirectiveDraft, mode: InjectionMode | None
    ) -> DirectiveState | None:
        """Add a version with the next number and put it in force. Creates and activates the directive if necessary.

        ``mode`` None keeps the current mode; a new directive gets ``system_first``. If the text is in force in this
        mode already, nothing changes. Returns None if the organization has no such agent.
        """

    async def state(self, org_id: UUID, agent_id: UUID) -> DirectiveState | None:
        """Return the directive; None if the agent has none."""

    async def history(self, org_id: UUID, agent_id: UUID) -> Sequence[DirectiveVersion]:
        """Return all versions, newest first; empty if the agent has no directive."""

    async def activate(self, org_id: UUID, agent_id: UUID, number: int) -> DirectiveState | None:
        """Put a version's text and mode in force and activate the directive. Return None without such a version.

        If the version is in force already, its ``previous_number`` stays the same.
        """

    async def deactivate(self, org_id: UUID, agent_id: UUID) -> DirectiveState | None:
        """Deactivate the directive, so that it is not injected. Return None if the agent has no directive."""


class ManageDirectives:
    """Sets, shows, compares, rolls back and deactivates directives."""

    def __init__(self, store: DirectiveStore, epochs: Epochs, clock: Clock, ids: IdSource) -> None:
        self._store = store
        self._changes = Changes(epochs)
        self._clock = clock
        self._ids = ids

    async def set(
        self, org_id: UUID, agent_id: UUID, text: str, *, author: str, mode: InjectionMode | None = None
    ) -> DirectiveState:
        """Put a text in force as a new version, in ``mode`` or by default in the current mode.

        If text and mode are in force already, nothing changes, and the current state is returned. Raises ``ValueError``
        for an invalid text, and ``NotFoundError`` if the organization has no such agent.
        """
        check_text(text)
        draft = DirectiveDraft(self._ids.uuid7(), text, text_hash(text), author, self._clock.now())
        state: DirectiveState | None = None

        async def add() -> bool:
            nonlocal state
            state = await self._store.add_version(org_id, agent_id, draft, mode)
            return state is not None and state.version.id == draft.id

        await self._changes.make(org_id, add())
        if state is None:
            raise NotFoundError("There is no such agent.")
        return state

    async def show(self, org_id: UUID, agent_id: UUID) -> DirectiveState:
        """Return the directive. Raises ``NotFoundError`` if the agent has none."""
        state = await self._store.state(org_id, agent_id)
        if state is None:
            raise NoDirectiveError
        return state

    async def history(self, org_id: UUID, agent_id: UUID) -> Sequence[DirectiveVersion]:
        """Return all versions, newest first; empty if there is no directive."""
        return await self._store.history(org_id, agent_id)

    async def diff(
        self, org_id: UUID, agent_id: UUID, before: int | None = None, after: int | None = None
    ) -> DirectiveDiff[DirectiveVersion]:
        """Compare two versions by number: by default the current version with the one that was in force before it.

        If that was not recorded, or if only ``after`` is given, ``before`` is the number before ``after``. The
        ``basis`` of the result names the choice. Version 1 is compared with an empty text. Raises ``NotFoundError`` if
        there is no directive, or no such version.
        """
        versions = {version.number: version for version in await self._store.history(org_id, agent_id)}
        basis = Basis.ASKED
        if after is None:
            state = await self.show(org_id, agent_id)
            after = state.version.number
            if before is None:
                before = state.previous_number
                # Before the only version, none can have been in force.
                known = before is not None or len(versions) == 1
                basis = Basis.IN_FORCE_BEFORE if known else Basis.NUMBER_BEFORE
        if before is None:
            before = after - 1
        for number in {after, before} - {0}:
            if number not in versions:
                raise _no_version(number, versions)
        old, new = versions.get(before), versions[after]
        return DirectiveDiff(old, new, unified_lines(old.text if old else "", new.text), basis)

    async def rollback(self, org_id: UUID, agent_id: UUID, number: int) -> DirectiveState:
        """Put the text and mode of an earlier version in force again, without adding a version.

        Raises ``NotFoundError`` if there is no such version.
        """
        state = await self._change(org_id, self._store.activate(org_id, agent_id, number))
        if state is None:
            raise _no_version(number, [version.number for version in await self._store.history(org_id, agent_id)])
        return state

    async def deactivate(self, org_id: UUID, agent_id: UUID) -> DirectiveState:
        """Deactivate the directive until a version is set or rolled back to. Raises ``NotFoundError``."""
        state = await self._change(org_id, self._store.deactivate(org_id, agent_id))
        if state is None:
            raise NoDirectiveError
        return state

    async def _change(self, org_id: UUID, change: Coroutine[Any, Any, DirectiveState | None]) -> DirectiveState | None:
        return await self._changes.make(org_id, change)


def _no_version(number: int, numbers: Collection[int]) -> NotFoundError:
    if not numbers:
        return NoDirectiveError()
    there_are = f"there are 1 to {max(numbers)}" if max(numbers) > 1 else "there is only 1"
    return NotFoundError(f"The directive has no version {number}; {there_are}.")
