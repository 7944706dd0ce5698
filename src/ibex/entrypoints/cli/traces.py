"""Looking at traces: the latest, the slowest, their sums, and whether all are there."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import rich_click as click

from ibex.domain.record.trace_follower import TraceFollower
from ibex.entrypoints.cli.charts import bar, sparkline, stacked
from ibex.entrypoints.cli.identity import span_of
from ibex.entrypoints.cli.output import GrowingTable, Row, json_option, org_option, show_one, show_rows, write_json
from ibex.entrypoints.cli.tables import terminal_width
from ibex.entrypoints.cli.trace import answer_ms, show_trace, tokens_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ibex.domain.record.history import EmitterRecord, ModelSummary, TimeSlice
    from ibex.domain.record.traces import Trace
    from ibex.entrypoints.administration import Administration
    from ibex.entrypoints.cli.invocation import Invocation

EXIT_GAPS: Final = 1
SLICES: Final = 60
_BESIDE_SLICES: Final = 34
_STILL_WRITING: Final = timedelta(minutes=1)
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
    "session_id": "session id (internal)",
}
_TAIL_SPARE: Final = ("provider_ttfb_ms", "directive")
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
    "attempts": "tries",
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
    return click.option("--since", default=default, show_default=True, help="The span that ends now: 15m, 1h, 30d.")


@click.group()
def traces() -> None:
    """Traces: one row a request."""


@traces.command("tail")
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@click.option(
    "-f", "--follow", is_flag=True, help="Then show every trace as it is stored; with --json, one document a line."
)
@org_option
@json_option
@click.pass_obj
def tail(invocation: Invocation, limit: int, org: str | None, *, follow: bool, as_json: bool) -> None:
    """Show the latest requests, the newest last; ``traces show`` takes what stands under request.

    A trace has its session's id, not the client's handle (X-IBEX-Session-ID): ``sessions show`` takes either and tells
    both. ``-f`` follows the order in which traces are stored, which is when requests end.
    """

    async def work(use_cases: Administration) -> None:
        organization = await invocation.organization(use_cases, org)
        if not follow:
            found = await use_cases.traces.tail(organization.id, limit)
            rows = [_trace_row(trace, as_json=as_json) for trace in found]
            show_rows(rows, as_json=as_json, empty="There is no trace yet.", columns=_TAIL_COLUMNS, spare=_TAIL_SPARE)
            return
        following = TraceFollower(use_cases.traces, organization.id)
        found = await following.begin(limit)
        table = GrowingTable(_TAIL_COLUMNS, _TAIL_SPARE)
        while True:
            rows = [_trace_row(trace, as_json=as_json) for trace in found]
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
    """Sum up requests by model, and over time: counts, errors, tokens, percentiles in milliseconds."""
    span = span_of(since)
    width = None if as_json else terminal_width()
    slices_shown = SLICES if width is None else min(SLICES, max(1, width - _BESIDE_SLICES))

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
        _show_time("requests", slices, totals, f"{totals['requests']:,}")
        _show_time("errors", slices, totals, f"{totals['errors']:,}, {totals['errors'] / totals['requests']:.1%}")
        _show_time("input_tokens", slices, totals, f"{totals['input_tokens']:,} tokens")
        _show_time("output_tokens", slices, totals, f"{totals['output_tokens']:,} tokens")


@traces.command("slow")
@_since_option("1h")
@click.option("-n", "--limit", type=click.IntRange(1, 1_000), default=10, show_default=True)
@org_option
@json_option
@click.pass_obj
def slow(invocation: Invocation, since: str, limit: int, org: str | None, *, as_json: bool) -> None:
    """Show the slowest requests, and where their time went."""
    span = span_of(since)

    async def work(use_cases: Administration) -> Sequence[Trace]:
        organization = await invocation.organization(use_cases, org)
        return await use_cases.traces.slow(organization.id, span, limit)

    found = invocation.administer(work)
    longest = max((trace.total_latency_ms for trace in found), default=0.0)
    rows = [_slow_row(trace, longest, as_json=as_json) for trace in found]
    show_rows(rows, as_json=as_json, empty=f"No request in the last {since}.", columns=_SLOW_COLUMNS, spare=_STAGES)
    if found and not as_json:
        click.echo("\n█ IBEX itself   ▓ the provider, to its first byte   ░ the provider, to its last")


@traces.command("gaps")
@_since_option("1d")
@json_option
@click.pass_obj
def gaps(invocation: Invocation, since: str, *, as_json: bool) -> int:
    """Prove that no trace was lost: each process numbers what it puts on record, through all organizations.

    Exit code 1 if a number is missing or is there twice. The span must be shorter than traces are kept.
    """
    span = span_of(since)
    found = invocation.administer(lambda use_cases: use_cases.traces.emitters(span))
    rows = [_emitter_row(one) for one in found]
    show_rows(rows, as_json=as_json, empty=f"No trace in the last {since}.", columns=_EMITTER_COLUMNS)
    missing, repeated = (sum(getattr(one, name) for one in found) for name in ("missing", "repeated"))
    if found and not as_json:
        counted = (
            f"{sum(one.rows for one in found):,} traces of {len(found)} process{'' if len(found) == 1 else 'es'}: "
        )
        verdict = f"{missing:,} missing, {repeated:,} repeated." if missing or repeated else "none is missing."
        click.echo(f"\n{counted}{verdict}")
    return EXIT_GAPS if missing or repeated else 0


def _show_time(name: str, slices: Sequence[TimeSlice], totals: Row, said: str) -> None:
    if totals[name]:
        label = name.removesuffix("_tokens")
        click.echo(f"{label:<8}  {sparkline([getattr(one, name) for one in slices])}  {said}")


def _slow_row(trace: Trace, longest: float, *, as_json: bool) -> Row:
    row = asdict(trace)
    if as_json:
        return row
    parts = (("█", trace.proxy_overhead_ms), ("▓", trace.provider_ttfb_ms), ("░", answer_ms(trace)))
    times = {name: row[name] or None for name in ("provider_ttfb_ms", *_STAGES)}
    drawn = {"answer_ms": answer_ms(trace) or None, "bar": stacked(parts, longest)}
    return {**row, **times, **drawn, "attempts": trace.attempts or None}


def _summary_row(found: ModelSummary, longest: float) -> Row:
    """Return what there is to say: no percentiles without a complete request, nor tokens of what nobody answered."""
    row = {name: value or None if name.endswith("_ms") else value for name, value in asdict(found).items()}
    if not found.provider:
        row = {**row, "input_tokens": found.input_tokens or None, "output_tokens": found.output_tokens or None}
    return {**row, "bar": bar(found.total_p99_ms, longest)}


def _emitter_row(found: EmitterRecord) -> Row:
    return {**asdict(found), "still_writing": datetime.now(UTC) - found.last_completed_at < _STILL_WRITING}


def _trace_row(trace: Trace, *, as_json: bool) -> Row:
    row = asdict(trace)
    if as_json:
        return row
    return {
        **row,
        "error_code": f"{trace.error_code} x{trace.repeated:,}" if trace.repeated > 1 else trace.error_code,
        "tokens": tokens_of(trace),
        "provider_ttfb_ms": trace.provider_ttfb_ms or None,
        "directive": trace.directive_hash[:8],
        # Of a session that no request has got through there is nothing to show; the one at hand has not.
        "session_id": trace.session_id if trace.checkpoint_id.int else None,
    }
