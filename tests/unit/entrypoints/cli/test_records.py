"""The commands for sessions."""

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
    """``show`` accepts the handle or the id."""
    turns = [new_turn(agent), new_turn(agent), new_turn(agent, "another", ends=True)]
    asyncio.run(ibex.sessions.append(turns))

    listed = ibex.run("sessions", "list", "--json").json
    shown = ibex.run("sessions", "show", "a-session", "--json").json

    assert {row["handle"]: row["turn_count"] for row in listed} == {"a-session": 2, "another": 1}
    assert [turn["turn_index"] for turn in shown["turns"]] == [0, 1]
    assert ibex.run("sessions", "show", shown["id"], "--json").json == shown
    assert "completed" in ibex.run("sessions", "list").out
    assert str(turns[0].request_id) in ibex.run("sessions", "show", "a-session").out


def test_each_turn_of_a_session_has_a_bar_for_its_duration(ibex: CliScene, agent: NamedAgent) -> None:
    """The longest turn has a bar of full length."""
    asyncio.run(ibex.sessions.append([new_turn(agent, latency_ms=duration) for duration in (100, 400, 0)]))

    shown = [line.count("▇") for line in ibex.run("sessions", "show", "a-session").out.splitlines()]

    assert shown[-3:] == [6, 24, 0]


def test_an_empty_record_is_reported(ibex: CliScene, agent: NamedAgent) -> None:  # noqa: ARG001 - there is an organization
    """``list`` prints a message, or an empty list as JSON. ``show`` fails."""
    assert ibex.run("sessions", "list").out.startswith("There is no session yet. ")
    assert ibex.run("sessions", "list", "--json").json == []
    absent = ibex.run("sessions", "show", "nothing")
    assert (absent.code, absent.out) == (1, "")
    assert absent.err.startswith("ibex: There is no session 'nothing' in the organization 'acme'.")


def test_sessions_of_another_organization_are_not_shown(ibex: CliScene, agent: NamedAgent) -> None:
    """Neither ``list`` nor ``show`` finds them."""
    asyncio.run(ibex.sessions.append([new_turn(agent)]))
    ibex.run("org", "create", "globex")

    assert ibex.run("sessions", "list", "--org", "globex", "--json").json == []
    assert ibex.run("sessions", "show", "a-session", "--org", "globex").code == 1
