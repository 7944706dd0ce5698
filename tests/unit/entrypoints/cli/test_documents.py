"""The output of commands: programs rely on every key, and `--json` prints exactly one document."""

from __future__ import annotations

import asyncio
from dataclasses import fields
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from harness.exchanges import REQUESTED_AT, an_exchange
from harness.turns import new_turn
from ibex.domain.record.exchange import Caller
from ibex.domain.record.history import EmitterRecord, ModelSummary, TimeSlice
from ibex.domain.record.traces import Trace, trace_of

if TYPE_CHECKING:
    from harness.cli_scene import CliScene
    from ibex.domain.identity.management import NamedAgent

ORG = {"id", "name", "status", "rate_limit_rpm", "created_at"}
AGENT = {"id", "org_id", "name", "status", "created_at"}
TOKEN = {
    *("id", "display_prefix", "name", "status", "agent_id", "user_id"),
    *("permissions", "pepper", "created_at", "expires_at", "revoked_at"),
}
VERSION = {"number", "receipt", "sha256", "bytes", "author", "created_at", "mode"}
DIRECTIVE = {"agent_id", "mode", "is_active", "changed_at", "previous", *VERSION}
SESSION = {
    *("id", "handle", "agent_id", "status", "model", "provider", "turn_count", "total_input_tokens"),
    *("total_output_tokens", "total_latency_ms", "created_at", "updated_at"),
}
TURN = {
    *("id", "turn_index", "request_id", "messages_hash", "completion_hash", "input_tokens", "output_tokens", "model"),
    *(
        "token_id",
        "user_id",
        "operation",
        "provider",
        "latency_ms",
        "provider_request_id",
        "is_streaming",
        "is_complete",
        "response_id",
        "directive_version_id",
        "created_at",
    ),
}
TRACE = {field.name for field in fields(Trace)}
SUMMARY = {"requests", "errors", "input_tokens", "output_tokens", "slice_seconds", "models", "timeline"}
INSTALLATION = {"org_id", "agent_id", "admin_user_id", "directive", "agent_token", "admin_token"}
BOOTSTRAP = "bootstrap --org globex --admin-email a@globex.example --agent two --directive Brief."


@pytest.fixture(autouse=True)
def _acme(ibex: CliScene) -> None:
    """Create one object of each kind."""

    async def make() -> NamedAgent:
        organization = await ibex.use_cases.identity.create_organization("acme")
        agent = await ibex.use_cases.identity.create_agent(organization.id, "one")
        await ibex.use_cases.directives.set(organization.id, agent.id, "Be kind.", author="me")
        await ibex.sessions.append([new_turn(agent)])
        trace = trace_of(an_exchange(caller=Caller(agent.org_id, agent.id, agent.id)))
        assert trace is not None
        await ibex.traces.write([trace], "batch")
        return agent

    asyncio.run(make())
    ibex.clock.set(REQUESTED_AT)
    ibex.run("token", "create", "--name", "laptop")


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        ("org create other", ORG),
        ("org set acme --rpm 5", ORG),
        ("agent create other", AGENT),
        ("token create --name other", {"id", "name", "token"}),
        ("directive set one Rhyme.", DIRECTIVE),
        ("directive show one", {*DIRECTIVE, "text"}),
        ("directive diff one", {"before", "after", "basis", "added", "removed", "lines"}),
        ("directive rollback one 1", DIRECTIVE),
        ("directive deactivate one", DIRECTIVE),
        ("sessions show a-session", {*SESSION, "turns"}),
        ("traces summary", SUMMARY),
        (
            f"traces show {UUID(int=2)}",
            {*TRACE, "agent_name", "directive_number", "session", "turn_index", "same_request_id"},
        ),
        (BOOTSTRAP, INSTALLATION),
    ],
)
def test_one_result_is_one_json_object(ibex: CliScene, command: str, keys: set[str]) -> None:
    """It has exactly these keys, and standard error is empty."""
    done = ibex.run(*command.split(), "--json")

    assert set(done.json) == keys
    assert done.err == ""


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        ("org list", ORG),
        ("agent list", AGENT),
        ("token list", TOKEN),
        ("directive history one", {*VERSION, "in_force", "in_force_since"}),
        ("sessions list", SESSION),
        ("traces tail", TRACE),
        ("traces slow", TRACE),
        ("traces gaps", {*(field.name for field in fields(EmitterRecord)), "still_writing"}),
    ],
)
def test_several_results_are_one_json_list(ibex: CliScene, command: str, keys: set[str]) -> None:
    """Each object has exactly these keys, and standard error is empty."""
    done = ibex.run(*command.split(), "--json")

    (row,) = done.json
    assert set(row) == keys
    assert done.err == ""


def test_the_summary_contains_models_and_time_slices(ibex: CliScene) -> None:
    """Each has exactly these keys."""
    found = ibex.run("traces", "summary", "--json").json

    assert set(found["models"][0]) == {field.name for field in fields(ModelSummary)}
    assert set(found["timeline"][0]) == {field.name for field in fields(TimeSlice)}


def test_a_session_contains_its_turns(ibex: CliScene) -> None:
    """Each turn has exactly these keys."""
    (turn,) = ibex.run("sessions", "show", "a-session", "--json").json["turns"]

    assert set(turn) == TURN


@pytest.mark.parametrize(
    ("command", "headings", "cells"),
    [
        ("org list", "id name status rpm created", ["acme", "active"]),
        ("agent list", "id name status created", ["one", "active"]),
        ("token list", "token name status agent permissions pepper expires created", ["laptop", "live", "agent"]),
        (
            "directive history one",
            "version in force receipt mode bytes author created",
            ["1", "since", "system_first", "8", "me"],
        ),
        (
            "sessions list",
            "session status turns tokens in out model last turn",
            ["a-session", "active", "1", "10", "5", "gpt-test"],
        ),
        (
            "traces tail",
            "requested status error model tokens ttfb ms total ms overhead directive request session",
            [
                "200",
                "-",
                "gpt-4o",
                "11→7",
                "250.000",
                "1234.567",
                "6.789",
                "c3c3c3c3",
                str(UUID(int=2)),
                str(UUID(int=8)),
            ],
        ),
        (
            "traces summary",
            "model provider requests errors tokens in out ttfb p50 p99 total p50 p90 p99 overhead p50 p99 ms",
            ["gpt-4o", "openai", "1", "0", "11", "7", "250.000", "1234.567", "1234.567", "6.789", "6.789", "▇" * 24],
        ),
        (
            "traces slow",
            "requested status model total ms request ttfb ms answer overhead attempts auth limit directive inject",
            ["200", "gpt-4o", "1234.567", "▓" * 5 + "░" * 19, "250.000", "977.778", "6.789", "2", "1.001", "2.002"],
        ),
        (
            "traces gaps",
            "process first last traces requests missing repeated last trace still writing",
            ["00000000-0000-0000-0000-000000000003", "4", "4", "1", "0", "0", "no"],
        ),
    ],
)
def test_a_table_has_headings_and_a_line_for_each_result(
    ibex: CliScene, command: str, headings: str, cells: list[str]
) -> None:
    """A pipe gets complete lines with cells in the order of the headings. Other output follows."""
    head, line, *below = ibex.run(*command.split()).out.splitlines()

    assert head.split() == headings.split()
    words = iter(line.split())
    assert all(cell in words for cell in cells), line
    assert below[:1] in ([], [""])


@pytest.mark.parametrize(
    ("command", "first", "shown"),
    [
        ("org create other --rpm 0", "id", "rate_limit_rpm  0"),
        ("agent create other", "id", "status      active"),
        ("directive set one Rhyme.", "one: version 2@", "is_active   yes"),
        ("directive deactivate one", "one: no directive", "is_active   no"),
        (BOOTSTRAP, "org_id", "agent_token    ibex_pat_"),
    ],
)
def test_one_result_has_a_line_for_each_field(ibex: CliScene, command: str, first: str, shown: str) -> None:
    """The id, or what was changed, is first. An unlimited rate is shown as 0."""
    out = ibex.run(*command.split()).out

    assert out.startswith(first)
    assert shown in out
