"""``ibex traces show``: everything recorded about one request."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from harness.exchanges import REQUESTED_AT, a_refusal, an_exchange
from harness.turns import new_turn
from ibex.domain.record.exchange import Caller, DirectiveReceipt
from ibex.domain.record.traces import Trace, trace_of
from ibex.entrypoints.cli.output import display
from ibex.entrypoints.cli.trace import answer_ms, tokens_of

if TYPE_CHECKING:
    from harness.cli_scene import CliScene
    from ibex.domain.identity.management import NamedAgent
    from ibex.domain.record.exchange import Exchange

REQUEST = str(UUID(int=2))


@pytest.fixture
def agent(ibex: CliScene) -> NamedAgent:
    """An agent of the only organization."""

    async def make() -> NamedAgent:
        organization = await ibex.use_cases.identity.create_organization("acme")
        return await ibex.use_cases.identity.create_agent(organization.id, "support")

    return asyncio.run(make())


def traced(exchange: Exchange) -> Trace:
    """Return the trace of an exchange."""
    trace = trace_of(exchange)
    assert trace is not None
    return trace


def keep(ibex: CliScene, agent: NamedAgent) -> Trace:
    """Record the second turn of a session under the second version of the agent's directive."""

    async def run() -> Trace:
        await ibex.use_cases.directives.set(agent.org_id, agent.id, "Be kind.", author="me")
        state = await ibex.use_cases.directives.set(agent.org_id, agent.id, "Be brief.", author="me")
        turn = new_turn(agent)
        directive = DirectiveReceipt(state.version.id, state.version.number, state.version.sha256)
        caller = Caller(agent.org_id, UUID(int=6), agent.id)
        trace = traced(an_exchange(id=turn.id, caller=caller, session=turn.session, directive=directive))
        await ibex.sessions.append([new_turn(agent), turn, new_turn(agent)])
        await ibex.traces.write([trace], "batch")
        return trace

    return asyncio.run(run())


def fields(out: str) -> dict[tuple[str, str], str]:
    """Return the printed values by heading and name."""
    found, heading = {}, ""
    for line in out.splitlines():
        if not line.startswith(" "):
            heading = line
        else:
            found[heading, line[:16].strip()] = line[16:].strip()
    return found


def test_a_request_is_shown_in_groups(ibex: CliScene, agent: NamedAgent) -> None:
    """Ids are shown with their names, and the session with the turn of this request."""
    trace = keep(ibex, agent)

    found = fields(ibex.run("traces", "show", REQUEST.upper()).out)

    assert found["request", "id"] == REQUEST
    assert found["request", "requested"] == display(REQUESTED_AT)
    assert found["caller", "organization"] == f"acme ({agent.org_id})"
    assert found["caller", "agent"] == f"support ({agent.id})"
    assert found["model call", "model"] == "gpt-4o"
    assert found["model call", "attempts"] == "2"
    assert found["directive", "version"] == f"2@{trace.directive_hash[:8]}"
    assert (found["outcome", "status"], found["outcome", "finish"]) == ("200", "stop")
    assert found["tokens", "in"] == "11, 5 of them cached"
    assert found["record", "session id"] == str(trace.session_id)
    assert found["record", "session"] == "a-session"
    assert found["record", "turn"] == "1, of 3 so far; the session is active"


def test_a_request_is_shown_with_the_time_of_each_stage(ibex: CliScene, agent: NamedAgent) -> None:
    """Each stage has a bar in proportion to the total. The stages add up to IBEX's own time."""
    keep(ibex, agent)

    found = fields(ibex.run("traces", "show", REQUEST).out)

    times = {name: value.split() for (heading, name), value in found.items() if heading == "time in ms"}
    assert times == {
        "total": ["1234.567", "▇" * 24],
        "IBEX itself": ["6.789", "▇"],
        "auth": ["1.001", "▇"],
        "rate limit": ["2.002", "▇"],
        "directive": ["3.003", "▇"],
        "inject": ["0.004", "▇"],
        "other": ["0.779", "▇"],
        "first byte": ["250.000", "▇" * 5],
        "answer": ["977.778", "▇" * 19],
    }


def test_json_has_all_columns_and_related_records(ibex: CliScene, agent: NamedAgent) -> None:
    """One document contains the trace, its session and the names of its agent and directive."""
    trace = keep(ibex, agent)

    found = ibex.run("traces", "show", REQUEST, "--json").json

    assert found["checkpoint_id"] == str(trace.checkpoint_id)
    assert (found["agent_name"], found["directive_number"], found["turn_index"]) == ("support", 2, 1)
    assert found["session"]["handle"] == "a-session"


def test_a_refusal_has_dashes_for_absent_values(ibex: CliScene, agent: NamedAgent) -> None:
    """It has no session, directive or tokens. An agent of another organization has no name."""
    refused = a_refusal(caller=Caller(agent.org_id, UUID(int=6), UUID(int=404)), error_code="AGENT_NOT_AUTHORIZED")
    asyncio.run(ibex.traces.write([traced(refused)], "batch"))

    found = fields(ibex.run("traces", "show", REQUEST).out)
    told = ibex.run("traces", "show", REQUEST, "--json").json

    assert found["outcome", "error"] == "AGENT_NOT_AUTHORIZED"
    assert found["caller", "agent"] == f"- ({UUID(int=404)})"
    for absent in (("directive", "version"), ("tokens", "total"), ("record", "session id"), ("time in ms", "answer")):
        assert found[absent] == "-"
    assert [told[name] for name in ("agent_name", "directive_number", "session", "turn_index")] == [None] * 4


def test_a_session_without_a_checkpoint_has_only_its_id(ibex: CliScene, agent: NamedAgent) -> None:
    """A trace can be delivered before its checkpoint."""
    asyncio.run(ibex.traces.write([traced(an_exchange(caller=Caller(agent.org_id, agent.id, agent.id)))], "batch"))

    found = fields(ibex.run("traces", "show", REQUEST).out)

    assert found["record", "session id"] == str(UUID(int=8))
    assert ("record", "session") not in found


def test_a_request_without_a_trace_is_an_error(ibex: CliScene, agent: NamedAgent) -> None:
    """The command prints one line and exits with 1, even if another organization has the trace."""
    keep(ibex, agent)
    ibex.run("org", "create", "globex")

    done = ibex.run("traces", "show", REQUEST, "--org", "globex")

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"ibex: There is no trace of request {REQUEST} in the organization 'globex'.")
    assert done.err.count("\n") == 1


def test_the_handle_of_a_session_is_not_taken_for_a_lost_request(ibex: CliScene, agent: NamedAgent) -> None:
    """By default a handle is a UUID, like the id of a request. The error names the command for sessions."""
    handle = "0190c0de-0000-7000-8000-0000000000a1"
    asyncio.run(ibex.sessions.append([new_turn(agent, handle=handle)]))

    done = ibex.run("traces", "show", handle)

    expected = f"ibex: {handle} is a session. `ibex sessions show {handle}` shows its requests.\n"
    assert (done.code, done.err) == (1, expected)


def test_absent_answers_have_no_time_and_no_tokens() -> None:
    """A response may have no first byte, and a request may not reach a provider."""
    trace = traced(an_exchange())

    assert answer_ms(replace(trace, provider_ttfb_ms=0.0)) == 0.0
    assert answer_ms(replace(trace, proxy_overhead_ms=2_000.0)) == 0.0
    assert tokens_of(replace(trace, provider="")) is None
    assert tokens_of(replace(trace, input_tokens=0, output_tokens=0)) is None  # the provider failed
    assert tokens_of(replace(trace, checkpoint_id=UUID(int=0))) == "11→7"  # no turn, such as embeddings
    assert tokens_of(trace) == "11→7"


def test_all_requests_with_the_same_id_are_shown(ibex: CliScene, agent: NamedAgent) -> None:
    """The latest is first. In JSON, it contains the others."""
    first = keep(ibex, agent)
    later = replace(first, requested_at=first.completed_at, emitter_seq=first.emitter_seq + 1, status_code=503)
    asyncio.run(ibex.traces.write([later], "another batch"))

    done = ibex.run("traces", "show", REQUEST)
    assert done.out.startswith("2 requests have this id")
    assert done.out.count(REQUEST) == 2
    assert done.out.index("503") < done.out.index("200")
    document = json.loads(ibex.run("traces", "show", REQUEST, "--json").out)
    assert document["status_code"] == 503
    assert [other["status_code"] for other in document["same_request_id"]] == [200]
