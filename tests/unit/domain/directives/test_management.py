"""Management of an agent's directive by an operator."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from harness.memory.clock import ManualClock
from harness.memory.directives import InMemoryDirectives
from harness.memory.identity import InMemoryIdentity
from harness.memory.ids import SequentialIds
from harness.office import WatchedEpochs
from ibex.domain.directives.diff import Basis
from ibex.domain.directives.management import DirectiveState, ManageDirectives
from ibex.domain.directives.model import Directive, InjectionMode
from ibex.domain.errors import NotFoundError
from ibex.domain.freshness.change_log import Change
from ibex.domain.freshness.kinds import Kind
from ibex.domain.identity.management import ManageIdentity, NamedAgent
from ibex.domain.identity.token_hash import TokenPeppers

AUTHOR = "kim@example.com"


class Desk:
    """The use case over an in-memory store with one agent."""

    def __init__(self, clock: ManualClock, identity: InMemoryIdentity, agent: NamedAgent, ids: SequentialIds) -> None:
        self.clock = clock
        self.identity = identity
        self.store = store = InMemoryDirectives(identity, clock, identity.change_log)
        self.epochs = WatchedEpochs(clock, SequentialIds(1))
        self.manage = ManageDirectives(store, self.epochs, clock, ids)
        self.agent = agent

    @property
    def key(self) -> tuple[UUID, UUID]:
        """The agent and its organization."""
        return self.agent.org_id, self.agent.id

    async def in_force(self) -> Directive | None:
        """Return the directive that would be injected now."""
        return await self.store.active(*self.key)


@pytest.fixture
async def desk() -> Desk:
    """A desk whose agent has no directive yet."""
    clock, ids, identity = ManualClock(), SequentialIds(), InMemoryIdentity()
    people = ManageIdentity(
        identity, TokenPeppers({"k": bytes(16)}), WatchedEpochs(clock, SequentialIds(1)), clock, ids
    )
    organization = await people.create_organization("acme")
    agent = await people.create_agent(organization.id, "support")
    return Desk(clock, identity, agent, ids)


async def test_the_first_text_is_in_force_as_version_1(desk: Desk) -> None:
    """Its mode is ``system_first`` unless another one is given."""
    state = await desk.manage.set(*desk.key, "Be brief.", author=AUTHOR)

    in_force = await desk.in_force()
    assert in_force is not None
    assert (in_force.text, in_force.version, in_force.mode) == ("Be brief.", 1, InjectionMode.SYSTEM_FIRST)
    assert in_force.sha256 == hashlib.sha256(b"Be brief.").hexdigest()
    assert (state.agent_id, state.is_active, state.version.author) == (desk.agent.id, True, AUTHOR)
    assert state.version.created_at == desk.clock.now()
    assert await desk.manage.show(*desk.key) == state


async def test_setting_again_makes_the_next_version_and_keeps_the_mode(desk: Desk) -> None:
    """The mode changes only if a mode is given."""
    await desk.manage.set(*desk.key, "one", author=AUTHOR, mode=InjectionMode.USER_PREPEND)
    desk.clock.advance(timedelta(seconds=1))
    second = await desk.manage.set(*desk.key, "two", author=AUTHOR)
    third = await desk.manage.set(*desk.key, "three", author=AUTHOR, mode=InjectionMode.SYSTEM_APPEND)

    assert (second.version.number, second.mode) == (2, InjectionMode.USER_PREPEND)
    assert (third.version.number, third.mode) == (3, InjectionMode.SYSTEM_APPEND)
    assert [(v.number, v.text) for v in await desk.manage.history(*desk.key)] == [(3, "three"), (2, "two"), (1, "one")]


async def test_rolling_back_moves_the_pointer_and_copies_nothing(desk: Desk) -> None:
    """The earlier version is in force with its own id and number. The history does not change."""
    first = await desk.manage.set(*desk.key, "one", author=AUTHOR)
    await desk.manage.set(*desk.key, "two", author=AUTHOR)

    state = await desk.manage.rollback(*desk.key, 1)

    assert state.version == first.version
    in_force = await desk.in_force()
    assert in_force is not None
    assert (in_force.version_id, in_force.text) == (first.version.id, "one")
    assert [v.number for v in await desk.manage.history(*desk.key)] == [2, 1]
    assert (await desk.manage.set(*desk.key, "three", author=AUTHOR)).version.number == 3


async def test_any_two_versions_can_be_compared(desk: Desk) -> None:
    """Without numbers, the current version is compared with the one that it replaced."""
    for text in ("one", "two", "three"):
        await desk.manage.set(*desk.key, text, author=AUTHOR)
    await desk.manage.rollback(*desk.key, 2)

    async def compared(*numbers: int | None) -> tuple[int | None, int]:
        diff = await desk.manage.diff(*desk.key, *numbers)
        return diff.before.number if diff.before else None, diff.after.number

    assert await compared() == (3, 2)
    assert await compared(1) == (1, 2)
    assert await compared(1, 3) == (1, 3)
    assert await compared(None, 3) == (2, 3)
    assert await compared(None, 1) == (None, 1)
    assert [line[0] for line in (await desk.manage.diff(*desk.key, 1, 3)).lines] == list("@-\\+\\")


async def test_a_text_is_compared_with_the_one_that_it_replaced(desk: Desk) -> None:
    """Sets and rollbacks count. Setting the current version again, or a deactivation in between, changes nothing."""

    async def compared() -> tuple[int | None, int, Basis]:
        diff = await desk.manage.diff(*desk.key)
        return diff.before.number if diff.before else None, diff.after.number, diff.basis

    await desk.manage.set(*desk.key, "one", author=AUTHOR)
    assert await compared() == (None, 1, Basis.IN_FORCE_BEFORE)
    await desk.manage.set(*desk.key, "two", author=AUTHOR)
    await desk.manage.rollback(*desk.key, 1)
    assert await compared() == (2, 1, Basis.IN_FORCE_BEFORE)
    await desk.manage.deactivate(*desk.key)
    await desk.manage.rollback(*desk.key, 1)
    assert await compared() == (2, 1, Basis.IN_FORCE_BEFORE)
    await desk.manage.set(*desk.key, "three", author=AUTHOR)
    assert await compared() == (1, 3, Basis.IN_FORCE_BEFORE)


class Forgetful(InMemoryDirectives):
    """A store whose directive was changed before previous versions were recorded."""

    async def state(self, org_id: UUID, agent_id: UUID) -> DirectiveState | None:
        """Return the directive without it."""
        state = await super().state(org_id, agent_id)
        return replace(state, previous_number=None) if state is not None else None


async def test_without_a_recorded_predecessor_a_text_is_compared_with_the_preceding_number(desk: Desk) -> None:
    """The diff reports this basis."""
    store = Forgetful(desk.identity, desk.clock)
    manage = ManageDirectives(store, desk.epochs, desk.clock, SequentialIds())
    for text in ("one", "two", "three"):
        await manage.set(*desk.key, text, author=AUTHOR)

    diff = await manage.diff(*desk.key)
    assert (diff.before and diff.before.number, diff.basis) == (2, Basis.NUMBER_BEFORE)
    await manage.rollback(*desk.key, 1)
    diff = await manage.diff(*desk.key)
    assert (diff.before, diff.basis) == (None, Basis.NUMBER_BEFORE)


async def test_comparing_a_missing_version_raises(desk: Desk) -> None:
    """An agent without a directive has no version to compare either."""
    with pytest.raises(NotFoundError, match="directive"):
        await desk.manage.diff(*desk.key)
    await desk.manage.set(*desk.key, "one", author=AUTHOR)
    for numbers in ((1, 2), (2, 1), (2,)):
        with pytest.raises(NotFoundError, match="no version 2; there is only 1"):
            await desk.manage.diff(*desk.key, *numbers)
    await desk.manage.set(*desk.key, "two", author=AUTHOR)
    with pytest.raises(NotFoundError, match="no version 9; there are 1 to 2"):
        await desk.manage.rollback(*desk.key, 9)


async def test_a_deactivated_directive_is_not_injected_until_it_is_activated_again(desk: Desk) -> None:
    """A rollback or a new text activates it."""
    await desk.manage.set(*desk.key, "one", author=AUTHOR)

    assert not (await desk.manage.deactivate(*desk.key)).is_active
    assert await desk.in_force() is None
    assert (await desk.manage.rollback(*desk.key, 1)).is_active
    assert await desk.in_force() is not None


@pytest.mark.parametrize("text", ["", "a" * 32_769, "a\x00", "\ud800"])
async def test_an_invalid_text_changes_nothing(desk: Desk, text: str) -> None:
    """It is refused before the store is called."""
    with pytest.raises(ValueError, match="A directive"):
        await desk.manage.set(*desk.key, text, author=AUTHOR)

    assert list(await desk.manage.history(*desk.key)) == []


async def test_missing_agents_and_directives_raise_not_found(desk: Desk) -> None:
    """This includes another organization's agent, and an agent that has no directive."""
    with pytest.raises(NotFoundError, match="agent"):
        await desk.manage.set(UUID(int=404), desk.agent.id, "one", author=AUTHOR)
    with pytest.raises(NotFoundError, match="directive"):
        await desk.manage.show(*desk.key)
    with pytest.raises(NotFoundError, match="directive"):
        await desk.manage.deactivate(*desk.key)
    with pytest.raises(NotFoundError, match="no directive"):
        await desk.manage.rollback(*desk.key, 1)
    assert list(await desk.manage.history(*desk.key)) == []


async def test_the_reprs_of_versions_and_states_contain_no_text(desk: Desk) -> None:
    """They show all other fields."""
    state = await desk.manage.set(*desk.key, "my secret", author=AUTHOR)

    assert "my secret" not in repr(state)
    assert "my secret" not in repr(await desk.in_force())


async def test_each_change_replaces_the_epoch_and_is_logged(desk: Desk) -> None:
    """Changes are a new text, a rollback and a deactivation. Reading is no change."""
    org_id, log = desk.agent.org_id, desk.identity.change_log
    position = (await log.read(None)).position
    await desk.manage.set(*desk.key, "one", author=AUTHOR)
    assert desk.epochs.replaced == [org_id]
    await desk.manage.rollback(*desk.key, 1)
    assert desk.epochs.replaced == [org_id] * 2
    await desk.manage.deactivate(*desk.key)
    assert desk.epochs.replaced == [org_id] * 3
    assert (await log.read(position)).changes == [Change(org_id, Kind.DIRECTIVES)] * 3

    await desk.manage.show(*desk.key)
    await desk.manage.history(*desk.key)
    assert desk.epochs.replaced == [org_id] * 3


async def test_the_epoch_is_replaced_after_the_commit(desk: Desk) -> None:
    """A request that reads the new epoch finds the new text."""
    seen: list[Directive | None] = []

    async def look(_org_id: UUID) -> None:
        seen.append(await desk.in_force())

    desk.epochs.on_replaced = look
    await desk.manage.set(*desk.key, "one", author=AUTHOR)
    await desk.manage.deactivate(*desk.key)

    first, second = seen
    assert first is not None
    assert (first.text, second) == ("one", None)


async def test_setting_the_text_in_force_changes_nothing(desk: Desk) -> None:
    """No version is added, no epoch replaced, no change logged. The current state is returned."""
    made = await desk.manage.set(*desk.key, "one", author=AUTHOR, mode=InjectionMode.SYSTEM_APPEND)
    position = (await desk.identity.change_log.read(None)).position
    desk.clock.advance(timedelta(seconds=1))

    assert await desk.manage.set(*desk.key, "one", author="someone else") == made
    assert await desk.manage.set(*desk.key, "one", author=AUTHOR, mode=InjectionMode.SYSTEM_APPEND) == made

    assert len(await desk.manage.history(*desk.key)) == 1
    assert len(desk.epochs.replaced) == 1
    assert (await desk.identity.change_log.read(position)).changes == []


async def test_rolling_back_restores_the_mode(desk: Desk) -> None:
    """A version consists of a text and its mode."""
    await desk.manage.set(*desk.key, "one", author=AUTHOR, mode=InjectionMode.USER_PREPEND)
    await desk.manage.set(*desk.key, "two", author=AUTHOR, mode=InjectionMode.SYSTEM_APPEND)

    state = await desk.manage.rollback(*desk.key, 1)

    in_force = await desk.in_force()
    assert in_force is not None
    assert (state.mode, in_force.mode) == (InjectionMode.USER_PREPEND, InjectionMode.USER_PREPEND)


async def test_a_failed_change_replaces_no_epoch(desk: Desk) -> None:
    """The organization or directive does not exist, or the text is invalid."""
    position = (await desk.identity.change_log.read(None)).position
    with pytest.raises(ValueError, match="A directive"):
        await desk.manage.set(*desk.key, "", author=AUTHOR)
    with pytest.raises(NotFoundError):
        await desk.manage.set(UUID(int=404), desk.agent.id, "one", author=AUTHOR)
    with pytest.raises(NotFoundError):
        await desk.manage.deactivate(*desk.key)
    with pytest.raises(NotFoundError):
        await desk.manage.rollback(*desk.key, 1)

    assert desk.epochs.replaced == []
    assert (await desk.identity.change_log.read(position)).changes == []
