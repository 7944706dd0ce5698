"""Looking at the record at the command line."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from harness.exchanges import REQUESTED_AT, an_exchange
from harness.turns import new_turn
from ibex.domain.exchange import Caller
from ibex.domain.traces import trace_of

if TYPE_CHECKING:
    from harness.cli_scene import CliScene
    from ibex.domain.manage_identity import NamedAgent
    from ibex.domain.traces import Trace


@pytest.fixture
def agent(ibex: CliScene) -> NamedAgent:
    """An agent of the only organization."""

    async def make() -> NamedAgent:
        organization = await ibex.use_cases.identity.create_organization("acme")
        return await ibex.use_cases.identity.create_agent(organization.id, "one")

    return asyncio.run(make())


def trace(agent: NamedAgent, minutes: int, **changes: object) -> Trace:
    """Return the trace of a request that came so many minutes after the first."""
    caller = Caller(agent.org_id, UUID(int=6), agent.id)
    requested_at = REQUESTED_AT + timedelta(minutes=minutes)
    made = trace_of(an_exchange(request_id=UUID(int=minutes + 1), requested_at=requested_at, caller=caller, **changes))
    assert made is not None
    return made


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


def test_nothing_on_record_is_said(ibex: CliScene, agent: NamedAgent) -> None:  # noqa: ARG001 - there is an organization
    """In words to people, as an empty list to programs."""
    assert ibex.run("sessions", "list").out == "There is no session yet.\n"
    assert ibex.run("traces", "tail").out == "There is no trace yet.\n"
    assert ibex.run("traces", "summary", "--since", "90s").out == "No request in the last 90s.\n"
    assert [ibex.run(*c, "--json").json for c in (("sessions", "list"), ("traces", "tail"))] == [[], []]
    assert ibex.run("sessions", "show", "nothing").err == "ibex: There is no session 'nothing'.\n"


def test_the_tail_is_the_latest_with_the_newest_last(ibex: CliScene, agent: NamedAgent) -> None:
    """Every column in JSON, the ones that people look at in the table."""
    asyncio.run(ibex.traces.write([trace(agent, minutes) for minutes in range(5)], "batch"))

    rows = ibex.run("traces", "tail", "-n", "2", "--json").json
    table = ibex.run("traces", "tail", "-n", "2").out.splitlines()

    assert [row["request_id"] for row in rows] == [str(UUID(int=4)), str(UUID(int=5))]
    assert rows[0]["directive_hash"] == "c3" * 32
    assert len(table) == 3
    assert "11→7" in table[1]
    assert "c3c3c3c3" in table[1]


def test_the_summary_is_a_row_a_model(ibex: CliScene, agent: NamedAgent) -> None:
    """Only what lies in the span, with a bar for the slowest share."""
    traces = [trace(agent, 0), trace(agent, 50), trace(agent, 55, model="gpt-4o-mini")]
    asyncio.run(ibex.traces.write(traces, "batch"))
    ibex.clock.set(REQUESTED_AT + timedelta(minutes=60))

    rows = ibex.run("traces", "summary", "--since", "30m", "--json").json

    assert {row["model"]: row["requests"] for row in rows} == {"gpt-4o": 1, "gpt-4o-mini": 1}
    assert {row["model"]: row["requests"] for row in ibex.run("traces", "summary", "--json").json} == {
        "gpt-4o": 2,
        "gpt-4o-mini": 1,
    }
    assert "▇" in ibex.run("traces", "summary").out


def test_another_organizations_record_is_not_shown(ibex: CliScene, agent: NamedAgent) -> None:
    """What is asked of one organization is answered of that one."""
    asyncio.run(ibex.sessions.append([new_turn(agent)]))
    ibex.run("org", "create", "globex")

    assert ibex.run("sessions", "list", "--org", "globex", "--json").json == []
    assert ibex.run("sessions", "show", "a-session", "--org", "globex").code == 1


def test_a_span_is_a_number_and_a_unit(ibex: CliScene, agent: NamedAgent) -> None:  # noqa: ARG001 - there is an organization
    """Anything else is wrong usage."""
    assert ibex.run("traces", "summary", "--since", "yesterday").code == 2
