"""The commands for traces."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from harness.exchanges import REQUESTED_AT, a_refusal, an_exchange
from harness.turns import new_turn
from ibex.domain.errors import ErrorCode
from ibex.domain.record.exchange import Caller, Timings
from ibex.domain.record.traces import trace_of

if TYPE_CHECKING:
    from harness.cli_scene import CliScene
    from ibex.domain.identity.management import NamedAgent
    from ibex.domain.record.traces import Trace


@pytest.fixture
def agent(ibex: CliScene) -> NamedAgent:
    """An agent of the only organization."""

    async def make() -> NamedAgent:
        organization = await ibex.use_cases.identity.create_organization("acme")
        return await ibex.use_cases.identity.create_agent(organization.id, "one")

    return asyncio.run(make())


def trace(agent: NamedAgent, minutes: int, **changes: object) -> Trace:
    """Return the trace of a request, so many minutes after the first."""
    caller = Caller(agent.org_id, UUID(int=6), agent.id)
    requested_at = REQUESTED_AT + timedelta(minutes=minutes)
    own = {"request_id": UUID(int=minutes + 1), "requested_at": requested_at, "completed_at": requested_at}
    made = trace_of(an_exchange(caller=caller, **{**own, **changes}))
    assert made is not None
    return made


def test_the_tail_shows_the_latest_traces_with_the_newest_last(ibex: CliScene, agent: NamedAgent) -> None:
    """JSON has every column, the table only the most useful ones."""
    asyncio.run(ibex.traces.write([trace(agent, minutes) for minutes in range(5)], "batch"))

    rows = ibex.run("traces", "tail", "-n", "2", "--json").json
    table = ibex.run("traces", "tail", "-n", "2").out.splitlines()

    assert [row["request_id"] for row in rows] == [str(UUID(int=4)), str(UUID(int=5))]
    assert rows[0]["directive_hash"] == "c3" * 32
    assert len(table) == 3
    assert "11→7" in table[1]
    assert "c3c3c3c3" in table[1]


def test_a_session_in_the_tail_can_be_shown(ibex: CliScene, agent: NamedAgent) -> None:
    """The column has its handle, or its id before it is stored. A request that opened no session has a dash."""
    turn = new_turn(agent)
    refused = {"session": new_turn(agent, "another").session, "reached_provider": False}
    traces = [trace(agent, 0, session=turn.session), trace(agent, 1, **refused), trace(agent, 2)]
    asyncio.run(ibex.sessions.append([turn]))
    asyncio.run(ibex.traces.write(traces, "batch"))

    in_session, without, not_stored = (line.split()[-1] for line in ibex.run("traces", "tail").out.splitlines()[1:])

    assert ibex.run("sessions", "show", in_session, "--json").json["handle"] == turn.session.handle == in_session
    assert (without, not_stored) == ("-", str(UUID(int=8)))


def test_absent_values_are_dashes(ibex: CliScene, agent: NamedAgent) -> None:
    """A refused request has no tokens, first byte or percentiles. The table must not show them as 0.000."""
    refused = trace_of(a_refusal(caller=Caller(agent.org_id, UUID(int=6), agent.id), error_code="AGENT_SUSPENDED"))
    assert refused is not None
    asyncio.run(ibex.traces.write([refused], "batch"))
    ibex.clock.set(REQUESTED_AT + timedelta(minutes=1))

    rows = {name: ibex.run("traces", name).out.splitlines()[1].split() for name in ("tail", "summary", "slow")}

    assert rows["tail"][2:9] == ["403", "AGENT_SUSPENDED", "-", "-", "-", "0.020", "0.020"]
    assert rows["summary"] == ["-", "-", "1", "1", *["-"] * 10]
    assert rows["slow"][2:5] == ["403", "-", "0.020"]
    assert rows["slow"][-8:] == ["-", "-", "0.020", "-", "0.010", "-", "-", "-"]
    assert ibex.run("traces", "summary", "--json").json["models"][0]["total_p50_ms"] == 0.0


def test_the_summary_has_a_row_for_each_model(ibex: CliScene, agent: NamedAgent) -> None:
    """It counts only requests within the span."""
    traces = [trace(agent, 0), trace(agent, 50), trace(agent, 55, model="gpt-4o-mini")]
    asyncio.run(ibex.traces.write(traces, "batch"))
    ibex.clock.set(REQUESTED_AT + timedelta(minutes=60))

    rows = ibex.run("traces", "summary", "--since", "30m", "--json").json["models"]

    assert {row["model"]: row["requests"] for row in rows} == {"gpt-4o": 1, "gpt-4o-mini": 1}
    assert {row["model"]: row["requests"] for row in ibex.run("traces", "summary", "--json").json["models"]} == {
        "gpt-4o": 2,
        "gpt-4o-mini": 1,
    }
    assert "▇" in ibex.run("traces", "summary").out


def test_the_summary_has_a_timeline(ibex: CliScene, agent: NamedAgent) -> None:
    """Requests, errors and tokens have a line each. A character covers a sixtieth of the span."""
    traces = [trace(agent, 0), trace(agent, 30), trace(agent, 30), trace(agent, 59, error_code="RATE_LIMITED")]
    asyncio.run(ibex.traces.write(traces, "batch"))
    ibex.clock.set(REQUESTED_AT + timedelta(minutes=59, seconds=30))

    found = ibex.run("traces", "summary", "--json").json
    lines = ibex.run("traces", "summary").out.splitlines()[-4:]

    assert (found["requests"], found["errors"], found["input_tokens"], found["slice_seconds"]) == (4, 1, 44, 60.0)
    assert [(n, one["requests"]) for n, one in enumerate(found["timeline"]) if one["requests"]] == [
        (0, 1),
        (30, 2),
        (59, 1),
    ]
    assert lines[0] == f"requests  ▅{'·' * 29}█{'·' * 28}▅  4"
    assert lines[1] == f"errors    {'·' * 59}█  1, 25.0%"
    assert [line.partition("  ")[0] for line in lines[2:]] == ["input", "output"]


def test_the_slowest_requests_are_shown_with_their_stages(ibex: CliScene, agent: NamedAgent) -> None:
    """The slowest is first. Each has a bar in parts, and a legend explains them."""
    durations = (1_000, 4_000, 2_000)
    timings = [
        Timings(provider_ttfb_ns=n * 500_000, overhead_ns=n * 250_000, total_ns=n * 1_000_000) for n in durations
    ]
    asyncio.run(ibex.traces.write([trace(agent, n, timings=one) for n, one in enumerate(timings)], "batch"))
    ibex.clock.set(REQUESTED_AT + timedelta(minutes=60))

    rows = ibex.run("traces", "slow", "-n", "2", "--since", "1d", "--json").json
    lines = ibex.run("traces", "slow", "--since", "1d").out.splitlines()

    assert [row["total_latency_ms"] for row in rows] == [4_000.0, 2_000.0]
    assert [(line.count("█"), line.count("▓"), line.count("░")) for line in lines[1:4]] == [
        (6, 12, 6),
        (3, 6, 3),
        (2, 2, 2),
    ]
    assert lines[-1].startswith("█ IBEX itself")
    assert ibex.run("traces", "slow", "--since", "1m").out == "No request in the last 1m.\n"


@pytest.mark.parametrize(
    ("numbers", "code", "said"),
    [
        ((1, 2, 3), 0, "3 traces of 1 process: none is missing."),
        ((1, 4), 1, "2 traces of 1 process: 2 missing, 0 repeated."),
        ((1, 2, 2), 1, "3 traces of 1 process: 0 missing, 1 repeated."),
    ],
)
def test_gaps_are_reported_and_exit_with_1(
    ibex: CliScene, agent: NamedAgent, numbers: tuple[int, ...], code: int, said: str
) -> None:
    """The report is the last line below the table."""
    asyncio.run(ibex.traces.write([trace(agent, n, emitter_seq=n) for n in numbers], "batch"))
    ibex.clock.set(REQUESTED_AT + timedelta(minutes=30))

    done, told = ibex.run("traces", "gaps"), ibex.run("traces", "gaps", "--json")

    assert (done.code, told.code) == (code, code)
    assert done.out.splitlines()[-1] == said
    assert json.loads(told.out)[0]["rows"] == len(numbers)


def test_a_process_that_may_still_run_is_marked(ibex: CliScene, agent: NamedAgent) -> None:
    """Such a process has written a trace recently."""
    now = datetime.now(UTC)
    ibex.clock.set(now)
    asyncio.run(ibex.traces.write([trace(agent, 0, requested_at=now, completed_at=now)], "batch"))

    assert ibex.run("traces", "gaps", "--json").json[0]["still_writing"] is True


def test_an_empty_record_is_not_a_failure(ibex: CliScene, agent: NamedAgent) -> None:  # noqa: ARG001 - there is an organization
    """The commands print a message, or an empty list as JSON."""
    assert ibex.run("traces", "tail").out.startswith("There is no trace yet. ")
    assert ibex.run("traces", "summary", "--since", "90s").out == "No request in the last 90s.\n"
    assert ibex.run("traces", "slow", "--since", "90s").out == "No request in the last 90s.\n"
    assert ibex.run("traces", "gaps").out == "No trace in the last 1d.\n"
    assert [ibex.run("traces", name, "--json").json for name in ("tail", "slow", "gaps")] == [[], [], []]
    assert ibex.run("traces", "summary", "--json").json["requests"] == 0


def test_an_invalid_span_is_wrong_usage(ibex: CliScene, agent: NamedAgent) -> None:  # noqa: ARG001 - there is an organization
    """A span must be a number and a unit."""
    assert ibex.run("traces", "summary", "--since", "yesterday").code == 2


def test_a_row_for_many_refusals_shows_their_number(ibex: CliScene, agent: NamedAgent) -> None:
    """``tail``, ``show`` and ``gaps`` show it."""
    many = trace(agent, 1, emitter_seq=1, error_code=ErrorCode.RATE_LIMITED, status=429, repeated=1_234)
    asyncio.run(ibex.traces.write([many], "batch"))
    ibex.clock.set(REQUESTED_AT + timedelta(minutes=30))

    assert "RATE_LIMITED x1,234" in ibex.run("traces", "tail").out
    assert "RATE_LIMITED, one row for 1,234 refused requests" in ibex.run("traces", "show", str(many.request_id)).out
    assert ibex.run("traces", "tail", "--json").json[0]["repeated"] == 1_234
    assert ibex.run("traces", "gaps", "--json").json[0]["requests"] == 1_234
