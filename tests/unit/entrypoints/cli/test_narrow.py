"""Every table on a terminal of 80 columns."""

from __future__ import annotations

import asyncio
import io
import os
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import click
import pytest
from rich.cells import cell_len

from harness.exchanges import REQUESTED_AT, a_refusal, an_exchange
from harness.turns import new_turn
from ibex.domain.record.exchange import Caller
from ibex.domain.record.traces import trace_of

if TYPE_CHECKING:
    from harness.cli_scene import CliScene

WIDTH = 80


class Terminal(io.StringIO):
    """Standard output that is a terminal."""

    def isatty(self) -> bool:
        """Return true."""
        return True


@pytest.fixture(autouse=True)
def _acme(ibex: CliScene) -> None:
    """Create one object of each kind."""

    async def make() -> None:
        organization = await ibex.use_cases.identity.create_organization("acme")
        agent = await ibex.use_cases.identity.create_agent(organization.id, "support")
        await ibex.use_cases.directives.set(organization.id, agent.id, "Be kind.", author="kim@acme.example")
        await ibex.sessions.append([new_turn(agent), new_turn(agent, handle="0190c0de-0000-7000-8000-0000000000a1")])
        caller = Caller(agent.org_id, agent.id, agent.id)
        refused = a_refusal(caller=caller, error_code="AGENT_NOT_AUTHORIZED")
        traces = [trace_of(exchange) for exchange in (an_exchange(caller=caller), refused)]
        await ibex.traces.write([trace for trace in traces if trace is not None], "batch")

    asyncio.run(make())
    ibex.clock.set(REQUESTED_AT + timedelta(minutes=1))
    ibex.run("token", "create", "--name", "laptop", "--agent", "support", "--expires", "30d")


def printed(ibex: CliScene, monkeypatch: pytest.MonkeyPatch, command: str) -> str:
    """Return the output of a command on a terminal of 80 columns."""
    monkeypatch.setitem(os.environ, "COLUMNS", str(WIDTH))
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    ibex.run(*command.split())
    return terminal.getvalue()


@pytest.mark.parametrize(
    "command",
    [
        *("org list", "agent list", "token list", "directive history support", "directive show support"),
        *("sessions list", "sessions show a-session"),
        *("traces tail", "traces summary", "traces slow", "traces gaps", f"traces show {UUID(int=2)}"),
    ],
)
def test_no_line_is_wider_than_the_terminal(ibex: CliScene, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """A wider line would wrap."""
    lines = click.unstyle(printed(ibex, monkeypatch, command)).splitlines()

    assert len(lines) >= 2
    assert [line for line in lines if cell_len(line) > WIDTH] == []


def test_a_narrow_tail_omits_no_column(ibex: CliScene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows take several lines instead."""
    shown = click.unstyle(printed(ibex, monkeypatch, "traces tail"))

    for heading in ("ttfb ms", "directive", "request", "session", "c3c3c3c3"):
        assert heading in shown


def test_ids_in_a_narrow_table_are_complete(ibex: CliScene, monkeypatch: pytest.MonkeyPatch) -> None:
    """They can be copied. The stages are omitted, because ``traces show`` has them."""
    shown = printed(ibex, monkeypatch, "traces slow")

    assert str(UUID(int=2)) in shown
    assert "inject" not in shown
    assert shown.startswith("\x1b[1m")
