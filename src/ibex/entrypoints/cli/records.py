"""Looking at the record: sessions with their turns, traces with their summary."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import rich_click as click

from ibex.domain.errors import NotFoundError
from ibex.entrypoints.cli.identity import span_of
from ibex.entrypoints.cli.output import Row, bar, json_option, org_option, show_one, show_rows, shown, write_json

if TYPE_CHECKING:
    from ibex.domain.records import ModelSummary, SessionRecord, TurnRecord
    from ibex.domain.traces import Trace
    from ibex.entrypoints.administration import Administration
    from ibex.entrypoints.cli.invocation import Invocation

_POLL_S: Final = 0.5
_TRACE_COLUMNS: Final = {
    "requested_at": "requested",
    "status_code": "status",
    "error_code": "error",
    "model": "model",
    "tokens": "tokens",
    "provider_ttfb_ms": "ttfb ms",
    "total_latency_ms": "total ms",
    "proxy_overhead_ms": "overhead ms",
    "directive": "directive",
    "session": "session",
}
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
    "is_streaming": "stream",
    "is_complete": "complete",
    "created_at": "at",
    "request_id": "request",
}
_SUMMARY_COLUMNS: Final = {
    "model": "model",
    "provider": "provider",
    "requests": "requests",
    "errors": "errors",
    "input_tokens": "tokens in",
    "output_tokens": "out",
    "ttfb_p50_ms": "ttfb p50",
    "total_p50_ms": "total p50",
    "total_p99_ms": "p99",
    "overhead_p50_ms": "overhead p50",
    "overhead_p99_ms": "p99 ms",
    "bar": "",
}


@click.group()
def sessions() -> None:
    """Sessions and their turns."""


@sessions.command("list")
@click.option("--limit", type=click.IntRange(1, 1_000), default=20, show_default=True)
@org_option
@json_option
@click.pass_obj
def list_sessions(invocation: Invocation, limit: int, org: str | None, *, as_json: bool) -> None:
    """List the sessions that were used last, latest first."""

    async def work(use_cases: Administration) -> list[Row]:
        organization = await invocation.organization(use_cases, org)
        return [_session_row(found) for found in await use_cases.sessions.sessions(organization.id, limit)]

    rows = invocation.administer(work)
    show_rows(rows, as_json=as_json, empty="There is no session yet.", columns=_SESSION_COLUMNS)


@sessions.command("show")
@click.argument("session")
@org_option
@json_option
@click.pass_obj
def show_session(invocation: Invocation, session: str, org: str | None, *, as_json: bool) -> None:
    """Show a session, given by its handle or its id, with all its turns."""

    async def work(use_cases: Administration) -> tuple[Row, list[Row]]:
        organization = await invocation.organization(use_cases, org)
        found = await use_cases.sessions.find(organization.id, session)
        if found is None:
            raise NotFoundError(f"There is no session {session!r}.")
        turns = await use_cases.sessions.turns(organization.id, found.id)
        return _session_row(found), [_turn_row(turn) for turn in turns]

    row, turns = invocation.administer(work)
    if as_json:
        write_json({**row, "turns": turns})
        return
    show_one(row, as_json=False)
    click.echo()
    show_rows(turns, as_json=False, empty="It has no turns.", columns=_TURN_COLUMNS)


@click.group()
def traces() -> None:
    """Traces: one row a request."""


@traces.command("tail")
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes; with --json a line each.")
@org_option
@json_option
@click.pass_obj
def tail(invocation: Invocation, limit: int, org: str | None, *, follow: bool, as_json: bool) -> None:
    """Show the latest requests, the newest last."""

    async def work(use_cases: Administration) -> None:
        organization = await invocation.organization(use_cases, org)
        found = await use_cases.traces.tail(organization.id, limit)
        if not follow:
            rows = [_trace_row(trace, as_json=as_json) for trace in found]
            show_rows(rows, as_json=as_json, empty="There is no trace yet.", columns=_TRACE_COLUMNS)
            return
        latest = None
        while True:
            for trace in found:
                latest = trace.requested_at
                _show_line(trace, as_json=as_json)
            sys.stdout.flush()
            await asyncio.sleep(_POLL_S)
            found = await use_cases.traces.tail(organization.id, limit, after=latest)

    try:
        invocation.administer(work)
    except KeyboardInterrupt:
        if not follow:
            raise


@traces.command("summary")
@click.option("--since", default="1h", show_default=True, help="The span that ends now: 15m, 1h, 30d.")
@org_option
@json_option
@click.pass_obj
def summary(invocation: Invocation, since: str, org: str | None, *, as_json: bool) -> None:
    """Sum up requests by model: counts, tokens, percentiles in milliseconds."""
    span = span_of(since)

    async def work(use_cases: Administration) -> list[ModelSummary]:
        organization = await invocation.organization(use_cases, org)
        return list(await use_cases.traces.summary(organization.id, span))

    found = invocation.administer(work)
    longest = max((one.total_p99_ms for one in found), default=0.0)
    rows = [asdict(one) if as_json else {**asdict(one), "bar": bar(one.total_p99_ms, longest)} for one in found]
    show_rows(rows, as_json=as_json, empty=f"No request in the last {since}.", columns=_SUMMARY_COLUMNS)


def _session_row(found: SessionRecord) -> Row:
    return {**asdict(found), "status": found.status.value}


def _turn_row(turn: TurnRecord) -> Row:
    return asdict(turn)


def _trace_row(trace: Trace, *, as_json: bool) -> Row:
    row = asdict(trace)
    if as_json:
        return row
    return {
        **row,
        "tokens": f"{trace.input_tokens}→{trace.output_tokens}",
        "directive": trace.directive_hash[:8],
        "session": str(trace.session_id)[:8] if trace.session_id.int else None,
    }


def _show_line(trace: Trace, *, as_json: bool) -> None:
    row = _trace_row(trace, as_json=as_json)
    if as_json:
        write_json(row)
    else:
        click.echo("  ".join(shown(row[name]) for name in _TRACE_COLUMNS))
