"""The contract of ``DirectiveStore`` and of the ``DirectiveLookup`` over it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from harness.memory.directives import InMemoryDirectives
from harness.memory.identity import InMemoryIdentity
from harness.tenants import attach, new_agent, new_draft
from ibex.adapters.postgres.database import Database
from ibex.adapters.postgres.directives import PostgresDirectives
from ibex.adapters.postgres.identity import PostgresIdentity
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE
from ibex.adapters.system.clock import SystemClock
from ibex.domain.directives.management import DirectiveVersion
from ibex.domain.directives.model import MAX_TEXT_BYTES, Directive, InjectionMode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from ibex.domain.directives.management import DirectiveDraft, DirectiveState
    from ibex.domain.identity.management import IdentityStore

    Stores = tuple[IdentityStore, InMemoryDirectives | PostgresDirectives]


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.integration)])
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[Stores]:
    """An empty identity store, to put agents into, and an empty directive store."""
    if request.param == "memory":
        identity = InMemoryIdentity()
        yield identity, InMemoryDirectives(identity, SystemClock())
        return
    postgres = request.getfixturevalue("postgres")
    auth, app = Database(postgres.auth_url, AUTH_ROLE), Database(postgres.app_url, APP_ROLE)
    await auth.open()
    await app.open()
    yield PostgresIdentity(auth), PostgresDirectives(app)
    await app.close()
    await auth.close()


def _version(draft: DirectiveDraft, number: int, mode: InjectionMode = InjectionMode.SYSTEM_FIRST) -> DirectiveVersion:
    return DirectiveVersion(draft.id, number, draft.text, draft.sha256, draft.author, draft.created_at, mode)


def _in_force(draft: DirectiveDraft, number: int, mode: InjectionMode) -> Directive:
    return Directive(draft.id, number, mode, draft.text, draft.sha256)


async def test_an_agent_without_a_directive_returns_none(stores: Stores) -> None:
    """Every method returns None or an empty list."""
    identity, store = stores
    agent = await attach(identity)
    of = (agent.org_id, agent.id)
    assert await store.active(*of) is None
    assert await store.state(*of) is None
    assert await store.history(*of) == []
    assert await store.activate(*of, 1) is None
    assert await store.deactivate(*of) is None


async def test_the_first_version_creates_and_activates_the_directive(stores: Stores) -> None:
    """The version has number 1 and, without an explicit mode, is injected as the first system message."""
    identity, store = stores
    agent, draft = await attach(identity), new_draft("Grüße höflich: 你好 🙂 \\ % 'x'")
    made = await store.add_version(agent.org_id, agent.id, draft, None)
    assert made == await store.state(agent.org_id, agent.id)
    assert made is not None
    assert (made.agent_id, made.mode, made.is_active) == (agent.id, InjectionMode.SYSTEM_FIRST, True)
    assert (made.version, made.previous_number) == (_version(draft, 1), None)
    assert await store.active(agent.org_id, agent.id) == _in_force(draft, 1, InjectionMode.SYSTEM_FIRST)


async def test_a_new_version_becomes_active_and_keeps_the_mode(stores: Stores) -> None:
    """Numbers increase. The mode changes only when the call gives one."""
    identity, store = stores
    agent, drafts = await attach(identity), [new_draft(f"version {n}") for n in (1, 2, 3)]
    of = (agent.org_id, agent.id)
    await store.add_version(*of, drafts[0], InjectionMode.USER_PREPEND)
    await store.add_version(*of, drafts[1], None)
    assert await store.active(*of) == _in_force(drafts[1], 2, InjectionMode.USER_PREPEND)
    await store.add_version(*of, drafts[2], InjectionMode.SYSTEM_APPEND)
    assert await store.active(*of) == _in_force(drafts[2], 3, InjectionMode.SYSTEM_APPEND)
    assert await store.history(*of) == [
        _version(drafts[2], 3, InjectionMode.SYSTEM_APPEND),
        _version(drafts[1], 2, InjectionMode.USER_PREPEND),
        _version(drafts[0], 1, InjectionMode.USER_PREPEND),
    ]


async def test_a_text_of_the_maximum_length_is_stored(stores: Stores) -> None:
    """The store returns all 32,768 bytes unchanged."""
    identity, store = stores
    agent, draft = await attach(identity), new_draft("é" * (MAX_TEXT_BYTES // 2))
    await store.add_version(agent.org_id, agent.id, draft, None)
    found = await store.active(agent.org_id, agent.id)
    assert found is not None
    assert found.text == draft.text


async def test_a_rollback_activates_an_earlier_version(stores: Stores) -> None:
    """The rollback adds nothing to the history. The next version gets the next number of the history."""
    identity, store = stores
    agent, drafts = await attach(identity), [new_draft(f"version {n}") for n in (1, 2, 3)]
    of = (agent.org_id, agent.id)
    await store.add_version(*of, drafts[0], None)
    await store.add_version(*of, drafts[1], None)
    state = await store.activate(*of, 1)
    assert state is not None
    assert (state.agent_id, state.mode, state.is_active) == (agent.id, InjectionMode.SYSTEM_FIRST, True)
    assert state.version == _version(drafts[0], 1)
    assert await store.active(*of) == _in_force(drafts[0], 1, InjectionMode.SYSTEM_FIRST)
    assert len(await store.history(*of)) == 2
    await store.add_version(*of, drafts[2], None)
    assert await store.active(*of) == _in_force(drafts[2], 3, InjectionMode.SYSTEM_FIRST)


async def test_a_rollback_restores_the_mode(stores: Stores) -> None:
    """A version has a mode as well as a text. The next version keeps the restored mode."""
    identity, store = stores
    agent, drafts = await attach(identity), [new_draft(f"version {n}") for n in (1, 2, 3)]
    of = (agent.org_id, agent.id)
    await store.add_version(*of, drafts[0], InjectionMode.USER_PREPEND)
    await store.add_version(*of, drafts[1], InjectionMode.SYSTEM_APPEND)
    state = await store.activate(*of, 1)
    assert state is not None
    assert (state.mode, state.version.mode) == (InjectionMode.USER_PREPEND, InjectionMode.USER_PREPEND)
    assert await store.active(*of) == _in_force(drafts[0], 1, InjectionMode.USER_PREPEND)
    await store.activate(*of, 2)
    assert await store.active(*of) == _in_force(drafts[1], 2, InjectionMode.SYSTEM_APPEND)
    await store.activate(*of, 1)
    await store.add_version(*of, drafts[2], None)
    assert await store.active(*of) == _in_force(drafts[2], 3, InjectionMode.USER_PREPEND)


async def test_adding_the_active_text_and_mode_creates_no_version(stores: Stores) -> None:
    """Another mode, an earlier text, or any text after a deactivation creates a version."""
    identity, store = stores
    agent, mode = await attach(identity), InjectionMode.SYSTEM_APPEND
    of = (agent.org_id, agent.id)
    first = await store.add_version(*of, new_draft("one"), mode)
    repeated = await asyncio.gather(*(store.add_version(*of, new_draft("one"), again) for again in (None, mode) * 4))
    assert repeated == [first] * 8
    steps = (("one", InjectionMode.SYSTEM_FIRST), ("two", None), ("one", None))
    states = [await store.add_version(*of, new_draft(text), chosen) for text, chosen in steps]
    assert [state and state.version.number for state in states] == [2, 3, 4]
    await store.deactivate(*of)
    last = await store.add_version(*of, new_draft("one"), None)
    assert last is not None
    assert (last.version.number, last.is_active) == (5, True)


@pytest.mark.parametrize("number", [0, -1, 2])
async def test_an_unknown_version_cannot_be_activated(stores: Stores, number: int) -> None:
    """The call returns None, and the active version stays active."""
    identity, store = stores
    agent, draft = await attach(identity), new_draft()
    await store.add_version(agent.org_id, agent.id, draft, None)
    assert await store.activate(agent.org_id, agent.id, number) is None
    assert await store.active(agent.org_id, agent.id) == _in_force(draft, 1, InjectionMode.SYSTEM_FIRST)


async def test_a_deactivated_directive_is_not_injected(stores: Stores) -> None:
    """The lookup returns None, and the state keeps its version. Activating or adding a version restores it."""
    identity, store = stores
    agent, draft = await attach(identity), new_draft()
    of = (agent.org_id, agent.id)
    await store.add_version(*of, draft, None)
    state = await store.deactivate(*of)
    assert state is not None
    assert (state.version, state.is_active) == (_version(draft, 1), False)
    assert await store.active(*of) is None
    await store.activate(*of, 1)
    assert await store.active(*of) == _in_force(draft, 1, InjectionMode.SYSTEM_FIRST)
    await store.deactivate(*of)
    await store.add_version(*of, new_draft(), None)
    assert await store.active(*of) is not None


async def test_a_change_records_its_time_and_the_previous_version(stores: Stores) -> None:
    """Repeated activation and deactivation keep the previous version. Changes of another agent do not affect it."""
    identity, store = stores
    agent = await attach(identity)
    sibling = new_agent(agent.org_id)
    await identity.add_agent(sibling)
    of = (agent.org_id, agent.id)
    steps: list[Callable[[], Awaitable[DirectiveState | None]]] = [
        lambda: store.add_version(*of, new_draft(), None),
        lambda: store.add_version(*of, new_draft(), None),
        lambda: store.add_version(*of, new_draft(), None),
        lambda: store.activate(*of, 1),
        lambda: store.activate(*of, 1),
        lambda: store.deactivate(*of),
        lambda: store.activate(*of, 1),
        lambda: store.add_version(*of, new_draft(), InjectionMode.SYSTEM_APPEND),
    ]
    states = []
    for step in steps:
        await store.add_version(agent.org_id, sibling.id, new_draft(), None)
        state = await step()
        assert state is not None
        states.append(state)
    assert [(state.version.number, state.previous_number) for state in states] == [
        (1, None),
        (2, 1),
        (3, 2),
        *[(1, 3)] * 4,
        (4, 1),
    ]
    moments = [state.changed_at for state in states]
    assert moments == sorted(moments)
    assert await store.state(*of) == states[-1]


async def test_agents_of_one_organization_have_separate_version_numbers(stores: Stores) -> None:
    """Each agent has its own text too."""
    identity, store = stores
    agent = await attach(identity)
    sibling = new_agent(agent.org_id)
    await identity.add_agent(sibling)
    first, second = new_draft("first"), new_draft("second")
    await store.add_version(agent.org_id, agent.id, first, None)
    await store.add_version(agent.org_id, sibling.id, second, None)
    assert await store.active(agent.org_id, agent.id) == _in_force(first, 1, InjectionMode.SYSTEM_FIRST)
    assert await store.active(agent.org_id, sibling.id) == _in_force(second, 1, InjectionMode.SYSTEM_FIRST)


async def test_an_agent_of_another_organization_is_not_found(stores: Stores) -> None:
    """Reads and writes treat it as an unknown agent, and its directive does not change."""
    identity, store = stores
    ours, theirs = await attach(identity), await attach(identity)
    draft = new_draft()
    await store.add_version(theirs.org_id, theirs.id, draft, None)
    foreign = (ours.org_id, theirs.id)
    assert await store.add_version(*foreign, new_draft(), None) is None
    assert await store.active(*foreign) is None
    assert await store.state(*foreign) is None
    assert await store.history(*foreign) == []
    assert await store.activate(*foreign, 1) is None
    assert await store.deactivate(*foreign) is None
    assert await store.active(theirs.org_id, theirs.id) == _in_force(draft, 1, InjectionMode.SYSTEM_FIRST)


async def test_adding_a_version_for_an_unknown_agent_returns_none(stores: Stores) -> None:
    """An agent that does not exist gets no directive."""
    identity, store = stores
    agent = await attach(identity)
    assert await store.add_version(agent.org_id, uuid4(), new_draft(), None) is None


async def test_versions_added_concurrently_get_distinct_numbers(stores: Stores) -> None:
    """Every version is stored, and the numbers are 1 to n without gaps."""
    identity, store = stores
    agent = await attach(identity)
    await asyncio.gather(*(store.add_version(agent.org_id, agent.id, new_draft(f"{n}"), None) for n in range(8)))
    history = await store.history(agent.org_id, agent.id)
    assert [version.number for version in history] == list(range(8, 0, -1))
    assert {version.text for version in history} == {str(n) for n in range(8)}


async def test_a_version_is_found_by_its_id(stores: Stores) -> None:
    """Only its organization finds a version: the one in force or an earlier one, with its own mode."""
    identity, store = stores
    agent, other = await attach(identity), await attach(identity)
    first, second = new_draft("one"), new_draft("two")
    await store.add_version(agent.org_id, agent.id, first, InjectionMode.SYSTEM_APPEND)
    await store.add_version(agent.org_id, agent.id, second, InjectionMode.SYSTEM_FIRST)

    assert await store.version(agent.org_id, first.id) == _in_force(first, 1, InjectionMode.SYSTEM_APPEND)
    assert await store.version(agent.org_id, second.id) == _in_force(second, 2, InjectionMode.SYSTEM_FIRST)
    assert await store.version(other.org_id, first.id) is None
    assert await store.version(agent.org_id, uuid4()) is None
