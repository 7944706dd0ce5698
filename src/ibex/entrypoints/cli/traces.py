"""Commands that show traces: the latest, the slowest, a summary, and a check that none is missing."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import rich_click as click

from ibex.domain.errors import ServiceDegradedError
from ibex.domain.record.trace_follower import TraceFollower
from ibex.entrypoints.cli.charts import bar, sparkline, stacked
from ibex.entrypoints.cli.identity import parse_time_span
from ibex.entrypoints.cli.output import GrowingTable, Row, json_option, org_option, show_one, show_rows, write_json
from ibex.entrypoints.cli.tables import terminal_width
from ibex.entrypoints.cli.trace import answer_ms, show_trace, tokens_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from uuid import UUID

    from ibex.domain.record.history import EmitterRecord, ModelSummary, SessionHistory, TimeSlice
    from ibex.domain.record.traces import Trace
    from ibex.entrypoints.administration import Administration
    from ibex.entrypoints.cli.invocation import Invocation

EXIT_GAPS: Final = 1
SLICES: Final = 60
_LABELS_WIDTH: Final = 34
_RECENT: Final = timedelta(minutes=1)
_POLL_S: Final = 0.5
_TAIL_COLUMNS: Final = {
    "requested_at": "requested",
    "status_code": "status",
    "error_code": "error",
    "model": "model",
    "tokens": "tokens",
    "provider_ttfb_ms": "ttfb ms",
    "total_latency_ms": "total ms",
    "proxy_overhead_ms": "overhead",
    "directive": "directive",
    "request_id": "request",
    "session": "session",
}
_NO_TRACES: Final = "There is no trace yet. Each request to the proxy leaves one."
_SUMMARY_COLUMNS: Final = {
    "model": "model",
    "provider": "provider",
    "requests": "requests",
    "errors": "errors",
    "input_tokens": "tokens in",
    "output_tokens": "out",
    "ttfb_p50_ms": "ttfb p50",
    "ttfb_p99_ms": "p99",
    "total_p50_ms": "total p50",
    "total_p90_ms": "p90",
    "total_p99_ms": "p99",
    "overhead_p50_ms": "overhead p50",
    "overhead_p99_ms": "p99 ms",
    "bar": "",
}
_STAGES: Final = {"auth_ms": "auth", "rate_limit_ms": "limit", "directive_ms": "directive", "inject_ms": "inject"}
_SLOW_COLUMNS: Final = {
    "requested_at": "requested",
    "status_code": "status",
    "model": "model",
    "total_latency_ms": "total ms",
    "bar": "",
    "request_id": "request",
    "provider_ttfb_ms": "ttfb ms",
    "answer_ms": "answer",
    "proxy_overhead_ms": "overhead",
    "attempts": "attempts",
    **_STAGES,
}
_EMITTER_COLUMNS: Final = {
    "emitter_id": "process",
    "first": "first",
    "last": "last",
    "rows": "traces",
    "requests": "requests",
    "missing": "missing",
    "repeated": "repeated",
    "last_completed_at": "last trace",
    "still_writing": "still writing",
}


def _since_option(default: str) -> Callable[[Callable[..., object]], Callable[..., object]]:
    return click.option("--since", default=default, show_default=True, help="The time span, until now: 15m, 1h, 30d.")


def _limit_option(default: int, *, most: int) -> Callable[[Callable[..., object]], Callable[..., object]]:
    allowed = click.IntRange(1, most)
    return click.option(
        "-n", "--limit", type=allowed, default=default, show_default=True, help="The maximum number of rows."
    )


@click.group()
def traces() -> None:
    """Show traces, the records of requests."""


@traces.command("tail")
@_limit_option(20, most=10_000)
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Keep running and show each new trace as it is stored; with --json, one document per line.",
)
@org_option
@json_option
@click.pass_obj
def tail(invocation: Invocation, limit: int, org: str | None, *, follow: bool, as_json: bool) -> None:
    """Show the latest requests, the newest last. `ibex traces show` takes the id in the column "request".

    The session is the client's handle (X-IBEX-Session-ID), or its id while it is not stored yet; `ibex sessions show`
    takes either. With -f, traces appear in the order in which they are stored: when their requests end.
    """

    async def work(use_cases: Administration) -> None:
        organization = await invocation.organization(use_cases, org)

        async def rows_of(found: Sequence[Trace]) -> list[Row]:
            if as_json or not found:
                return [asdict(trace) for trace in found]
            return await _trace_rows(use_cases.sessions, organization.id, found)

        if not follow:
            found = await use_cases.traces.tail(organization.id, limit)
            show_rows(await rows_of(found), as_json=as_json, empty=_NO_TRACES, columns=_TAIL_COLUMNS)
            return
        following = TraceFollower(use_cases.traces, organization.id)
        found = await following.begin(limit)
        table = GrowingTable(_TAIL_COLUMNS)
        while True:
            rows = await rows_of(found)
            if as_json:
                for row in rows:
                    write_json(row)
            else:
                table.add(rows)
            sys.stdout.flush()
            await asyncio.sleep(_POLL_S)
            found = await following.next()

    try:
        invocation.administer(work)
    except KeyboardInterrupt:
        if not follow:
            raise


traces.add_command(show_trace)


@traces.command("summary")
@_since_option("1h")
@org_option
@json_option
@click.pass_obj
def summary(invocation: Invocation, since: str, org: str | None, *, as_json: bool) -> None:
    """Summarize requests by model and over time: counts, errors, tokens, and percentiles in milliseconds."""
    span = parse_time_span(since)
    width = None if as_json else terminal_width()
    slices_shown = SLICES if width is None else min(SLICES, max(1, width - _LABELS_WIDTH))

    async def work(use_cases: Administration) -> tuple[Sequence[ModelSummary], Sequence[TimeSlice]]:
        organization = await invocation.organization(use_cases, org)
        models = await use_cases.traces.summary(organization.id, span)
        return models, await use_cases.traces.timeline(organization.id, span, slices_shown)

    models, slices = invocation.administer(work)
    counted = ("requests", "errors", "input_tokens", "output_tokens")
    totals: Row = {name: sum(getattr(one, name) for one in models) for name in counted}
    if as_json:
        rows = {"models": [asdict(one) for one in models], "timeline": [asdict(one) for one in slices]}
        show_one({**totals, "slice_seconds": span.total_seconds() / SLICES, **rows}, as_json=True)
        return
    longest = max((one.total_p99_ms for one in models), default=0.0)
    rows_shown = [_summary_row(one, longest) for one in models]
    show_rows(rows_shown, as_json=False, empty=f"No request in the last {since}.", columns=_SUMMARY_COLUMNS)
    if models:
        click.echo()
        _show_timeline("requests", slices, totals, f"{totals['requests']:,}")
        _show_timeline("errors", slices, totals, f"{totals['errors']:,}, {totals['errors'] / totals['requests']:.1%}")
        _show_timeline("input_tokens", slices, totals, f"{totals['input_tokens']:,} tokens")
        _show_timeline("output_tokens", slices, totals, f"{totals['output_tokens']:,} tokens")


@traces.command("slow")
@_since_option("1h")
@_limit_option(10, most=1_000)
@org_option
@json_option
@click.pass_obj
def slow(invocation: Invocation, since: str, limit: int, org: str | None, *, as_json: bool) -> None:
    """Show the slowest requests, and where they spent their time."""
    span = parse_time_span(since)

    async def work(use_cases: Administration) -> Sequence[Trace]:
        organization = await invocation.organization(use_cases, org)
        return await use_cases.traces.slow(organization.id, span, limit)

    found = invocation.administer(work)
    longest = max((trace.total_latency_ms for trace in found), default=0.0)
    rows = [_slow_row(trace, longest, as_json=as_json) for trace in found]
    show_rows(rows, as_json=as_json, empty=f"No request in the last {since}.", columns=_SLOW_COLUMNS, spare=_STAGES)
    if found and not as_json:
        click.echo("\n█ IBEX itself   ▓ provider to first byte   ░ provider to last byte")


@traces.command("gaps")
@_since_option("1d")
@json_option
@click.pass_obj
def gaps(invocation: Invocation, since: str, *, as_json: bool) -> int:
    """Check that no trace is missing. Each process numbers its records, across all organizations.

    The exit code is 1 if a number is missing or repeated. The span must be shorter than IBEX_TRACE_TTL_DAYS.
    """
    span = parse_time_span(since)
    found = invocation.administer(lambda use_cases: use_cases.traces.emitters(span))
    rows = [_emitter_row(one) for one in found]
    show_rows(rows, as_json=as_json, empty=f"No trace in the last {since}.", columns=_EMITTER_COLUMNS)
    missing, repeated = (sum(getattr(one, name) for one in found) for name in ("missing", "repeated"))
    if found and not as_json:
        processes = f"{len(found)} process{'' if len(found) == 1 else 'es'}"
        outcome = f"{missing:,} missing, {repeated:,} repeated." if missing or repeated else "none is missing."
        click.echo(f"\n{sum(one.rows for one in found):,} traces of {processes}: {outcome}")
    return EXIT_GAPS if missing or repeated else 0


def _show_timeline(name: str, slices: Sequence[TimeSlice], totals: Row, note: str) -> None:
    if totals[name]:
        label = name.removesuffix("_tokens")
        click.echo(f"{label:<8}  {sparkline([getattr(one, name) for one in slices])}  {note}")


def _slow_row(trace: Trace, longest: float, *, as_json: bool) -> Row:
    row = asdict(trace)
    if as_json:
        return row
    parts = (("█", trace.proxy_overhead_ms), ("▓", trace.provider_ttfb_ms), ("░", answer_ms(trace)))
    times = {name: row[name] or None for name in ("provider_ttfb_ms", *_STAGES)}
    drawn = {"answer_ms": answer_ms(trace) or None, "bar": stacked(parts, longest)}
    return {**row, **times, **drawn, "attempts": trace.attempts or None}


def _summary_row(found: ModelSummary, longest: float) -> Row:
    """Return a row without percentiles if no request is complete, and without tokens if no provider was asked."""
    row = {name: value or None if name.endswith("_ms") else value for name, value in asdict(found).items()}
    if not found.provider:
        row = {**row, "input_tokens": found.input_tokens or None, "output_tokens": found.output_tokens or None}
    return {**row, "bar": bar(found.total_p99_ms, longest)}


def _emitter_row(found: EmitterRecord) -> Row:
    return {**asdict(found), "still_writing": datetime.now(UTC) - found.last_completed_at < _RECENT}


async def _trace_rows(sessions: SessionHistory, org_id: UUID, found: Sequence[Trace]) -> list[Row]:
    """Return the rows of a table. While PostgreSQL is unavailable, sessions have their ids instead of their handles."""
    handles: Mapping[UUID, str] = {}
    with suppress(ServiceDegradedError):
        handles = await sessions.handles(org_id, {trace.session_id for trace in found})
    return [_trace_row(trace, handles) for trace in found]


def _trace_row(trace: Trace, handles: Mapping[UUID, str]) -> Row:
    return {
        **asdict(trace),
        "error_code": f"{trace.error_code} x{trace.repeated:,}" if trace.repeated > 1 else trace.error_code,
        "tokens": tokens_of(trace),
        "provider_ttfb_ms": trace.provider_ttfb_ms or None,
        "directive": trace.directive_hash[:8],
        # A request without a checkpoint did not reach the provider, so its session might not exist.
        "session": handles.get(trace.session_id, trace.session_id) if trace.checkpoint_id.int else None,
    }
