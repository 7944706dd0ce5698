"""Commands that show sessions and their turns."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import rich_click as click

from ibex.domain.errors import NotFoundError
from ibex.entrypoints.cli.charts import bar
from ibex.entrypoints.cli.output import Row, json_option, org_option, show_one, show_rows, write_json

if TYPE_CHECKING:
    from ibex.domain.record.history import SessionRecord, TurnRecord
    from ibex.entrypoints.administration import Administration
    from ibex.entrypoints.cli.invocation import Invocation

_SESSION_COLUMNS: Final = {
    "handle": "session",
    "status": "status",
    "turn_count": "turns",
    "total_input_tokens": "tokens in",
    "total_output_tokens": "out",
    "model": "model",
    "updated_at": "last turn",
}
_TURN_COLUMNS: Final = {
    "turn_index": "turn",
    "model": "model",
    "input_tokens": "tokens in",
    "output_tokens": "out",
    "latency_ms": "ms",
    "bar": "",
    "is_streaming": "stream",
    "is_complete": "complete",
    "created_at": "at",
    "request_id": "request",
}


@click.group()
def sessions() -> None:
    """Show sessions and their turns."""


@sessions.command("list")
@click.option(
    "--limit", type=click.IntRange(1, 1_000), default=20, show_default=True, help="The maximum number of sessions."
)
@org_option
@json_option
@click.pass_obj
def list_sessions(invocation: Invocation, limit: int, org: str | None, *, as_json: bool) -> None:
    """List the most recently used sessions, latest first."""

    async def work(use_cases: Administration) -> list[Row]:
        organization = await invocation.organization(use_cases, org)
        return [_session_row(found) for found in await use_cases.sessions.sessions(organization.id, limit)]

    rows = invocation.administer(work)
    empty = "There is no session yet. The first request of an agent starts one."
    show_rows(rows, as_json=as_json, empty=empty, columns=_SESSION_COLUMNS)


@sessions.command("show")
@click.argument("session")
@org_option
@json_option
@click.pass_obj
def show_session(invocation: Invocation, session: str, org: str | None, *, as_json: bool) -> None:
    """Show a session with all its turns. SESSION is its handle or its id."""

    async def work(use_cases: Administration) -> tuple[Row, list[Row]]:
        organization = await invocation.organization(use_cases, org)
        found = await use_cases.sessions.find(organization.id, session)
        if found is None:
            raise NotFoundError(
                f"There is no session {session!r} in the organization {organization.name!r}."
                " A session exists once one of its requests has reached the provider. `ibex sessions list` lists them."
            )
        turns = await use_cases.sessions.turns(organization.id, found.id)
        return _session_row(found), [_turn_row(turn) for turn in turns]

    row, turns = invocation.administer(work)
    if as_json:
        write_json({**row, "turns": turns})
        return
    show_one(row, as_json=False)
    click.echo()
    longest = max((turn["latency_ms"] for turn in turns), default=0)
    turns = [{**turn, "bar": bar(turn["latency_ms"], longest)} for turn in turns]
    show_rows(turns, as_json=False, empty="The session has no turns.", columns=_TURN_COLUMNS)


def _session_row(found: SessionRecord) -> Row:
    return {**asdict(found), "status": found.status.value}


def _turn_row(turn: TurnRecord) -> Row:
    return asdict(turn)
