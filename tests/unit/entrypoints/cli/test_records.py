"""Looking at the record at the command line."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from harness.turns import new_turn

if TYPE_CHECKING:
    from harness.cli_scene import CliScene
    from ibex.domain.identity.management import NamedAgent


@pytest.fixture
def agent(ibex: CliScene) -> NamedAgent:
    """An agent of the only organization."""

    async def make() -> NamedAgent:
        organization = await ibex.use_cases.identity.create_organization("acme")
        return await ibex.use_cases.identity.create_agent(organization.id, "one")

    return asyncio.run(make())


def test_sessions_are_listed_and_shown_with_their_turns(ibex: CliScene, agent: NamedAgent) -> None:
    """By handle or by id."""
    turns = [new_turn(agent), new_turn(agent), new_turn(agent, "another", ends=True)]
    asyncio.run(ibex.sessions.append(turns))

    listed = ibex.run("sessions", "list", "--json").json
    shown = ibex.run("sessions", "show", "a-session", "--json").json

    assert {row["handle"]: row["turn_count"] for row in listed} == {"a-session": 2, "another": 1}
    assert [turn["turn_index"] for turn in shown["turns"]] == [0, 1]
    assert ibex.run("sessions", "show", shown["id"], "--json").json == shown
    assert "completed" in ibex.run("sessions", "list").out
    assert str(turns[0].request_id) in ibex.run("sessions", "show", "a-session").out


def test_a_sessions_turns_are_shown_by_how_long_they_took(ibex: CliScene, agent: NamedAgent) -> None:
    """A bar a turn, the longest as long as a bar is."""
    asyncio.run(ibex.sessions.append([new_turn(agent, latency_ms=duration) for duration in (100, 400, 0)]))

    shown = [line.count("▇") for line in ibex.run("sessions", "show", "a-session").out.splitlines()]

    assert shown[-3:] == [6, 24, 0]


def test_nothing_on_record_is_said(ibex: CliScene, agent: NamedAgent) -> None:  # noqa: ARG001 - there is an organization
    """In words to people, as an empty list to programs."""
    assert ibex.run("sessions", "list").out.startswith("There is no session yet. ")
    assert ibex.run("sessions", "list", "--json").json == []
    absent = ibex.run("sessions", "show", "nothing")
    assert (absent.code, absent.out) == (1, "")
    assert absent.err.startswith("ibex: There is no session 'nothing' in the organization 'acme'.")


def test_another_organizations_record_is_not_shown(ibex: CliScene, agent: NamedAgent) -> None:
    """What is asked of one organization is answered of that one."""
    asyncio.run(ibex.sessions.append([new_turn(agent)]))
    ibex.run("org", "create", "globex")

    assert ibex.run("sessions", "list", "--org", "globex", "--json").json == []
    assert ibex.run("sessions", "show", "a-session", "--org", "globex").code == 1
