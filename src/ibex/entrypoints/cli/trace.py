"""``ibex traces show``: everything that is recorded about one request."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import rich_click as click

from ibex.domain.errors import NotFoundError
from ibex.entrypoints.cli.charts import bar
from ibex.entrypoints.cli.invocation import parse_uuid
from ibex.entrypoints.cli.output import display, json_option, org_option, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from ibex.domain.identity.management import Organization
    from ibex.domain.record.history import SessionRecord
    from ibex.domain.record.traces import Trace
    from ibex.entrypoints.administration import Administration
    from ibex.entrypoints.cli.invocation import Invocation

_NAME_WIDTH: Final = 12
_TIME_WIDTH: Final = 10


@dataclass(frozen=True, slots=True)
class _Found:
    """A trace, and the names and the session that its ids refer to; None if they do not exist."""

    trace: Trace
    organization: Organization
    agent_name: str | None
    directive_number: int | None
    session: SessionRecord | None
    turn_index: int | None


@click.command("show")
@click.argument("request")
@org_option
@json_option
@click.pass_obj
def show_trace(invocation: Invocation, request: str, org: str | None, *, as_json: bool) -> None:
    """Show everything that is recorded about a request. REQUEST is its id, from the response header X-Request-ID.

    Under "IBEX itself", "other" is the rest: mainly reading and parsing the body, and recording the request. If a
    client has used the same id for several requests, all of them are shown, the latest first.
    """
    request_id = parse_uuid(request)

    async def work(use_cases: Administration) -> list[_Found]:
        organization = await invocation.organization(use_cases, org)
        traces = await use_cases.traces.find(organization.id, request_id)
        if not traces:
            if await use_cases.sessions.find(organization.id, str(request_id)) is not None:
                raise NotFoundError(f"{request_id} is a session. `ibex sessions show {request_id}` shows its requests.")
            raise NotFoundError(
                f"There is no trace of request {request_id} in the organization {organization.name!r}. A trace appears"
                " half a second after its request ends. A request that was refused with 401 can have none."
            )
        return [await _complete(use_cases, organization, trace) for trace in traces]

    latest, *others = invocation.administer(work)
    if as_json:
        write_json({**_document(latest), "same_request_id": [_document(other) for other in others]})
        return
    if others:
        click.echo(f"{len(others) + 1} requests have this id, the latest first.\n")
    for number, found in enumerate((latest, *others)):
        if number:
            click.echo()
        _show(found)


def _document(found: _Found) -> Mapping[str, Any]:
    related = {name: getattr(found, name) for name in ("agent_name", "directive_number", "session", "turn_index")}
    return {**asdict(found.trace), **related}


def _show(found: _Found) -> None:
    for heading, rows in _sections(found).items():
        click.secho(heading, bold=True)
        for name, value in rows.items():
            click.echo(f"  {name:<{_NAME_WIDTH}}  {value}")
    click.secho("time in ms", bold=True)
    for name, duration_ms in _times(found.trace).items():
        drawn = bar(duration_ms, found.trace.total_latency_ms)
        click.echo(f"  {name:<{_NAME_WIDTH}}  {display(duration_ms or None):>{_TIME_WIDTH}}  {drawn}".rstrip())


def answer_ms(trace: Trace) -> float:
    """Return the milliseconds from the first to the last byte of the provider's response; 0 without a first byte."""
    if not trace.provider_ttfb_ms:
        return 0.0
    return max(0.0, trace.total_latency_ms - trace.proxy_overhead_ms - trace.provider_ttfb_ms)


def tokens_of(trace: Trace) -> str | None:
    """Return the input and output tokens; None for a request that used none, as far as is known."""
    is_known = trace.provider and (trace.input_tokens or trace.output_tokens)
    return f"{trace.input_tokens}→{trace.output_tokens}" if is_known else None


async def _complete(use_cases: Administration, organization: Organization, trace: Trace) -> _Found:
    agents = {agent.id: agent.name for agent in await use_cases.identity.agents(organization.id)}
    versions = await use_cases.directives.history(organization.id, trace.agent_id)
    numbers = {version.id: version.number for version in versions}
    session, turn_index = None, None
    if trace.checkpoint_id.int:
        session = await use_cases.sessions.find(organization.id, str(trace.session_id))
        turns = await use_cases.sessions.turns(organization.id, trace.session_id)
        turn_index = next((turn.turn_index for turn in turns if turn.id == trace.checkpoint_id), None)
    number = numbers.get(trace.directive_version_id)
    return _Found(trace, organization, agents.get(trace.agent_id), number, session, turn_index)


def _sections(found: _Found) -> Mapping[str, Mapping[str, str]]:
    trace = found.trace
    return {
        "request": {
            "id": str(trace.request_id),
            "requested": display(trace.requested_at),
            "completed": display(trace.completed_at),
        },
        "caller": {
            "organization": f"{display(found.organization.name)} ({trace.org_id})",
            "agent": f"{display(found.agent_name)} ({trace.agent_id})" if trace.agent_id.int else "-",
            "token": f"ibex_pat_{trace.token_id}" if trace.token_id.int else "-",
            "user": str(trace.user_id) if trace.user_id.int else "-",
            "auth cache": display(trace.auth_cache),
        },
        "model call": {
            "operation": display(trace.operation),
            "model": display(trace.model),
            "provider": display(trace.provider),
            "streaming": display(trace.is_streaming),
            "attempts": display(trace.attempts or None),
        },
        "directive": _directive(found),
        "outcome": {
            "status": display(trace.status_code),
            "complete": display(trace.is_complete),
            "error": _error(trace),
            "finish": display(trace.finish_reason),
        },
        "tokens": {
            "in": f"{trace.input_tokens}, {trace.cached_tokens} of them cached",
            "out": f"{trace.output_tokens}, {trace.reasoning_tokens} of them reasoning",
            "total": display(trace.total_tokens),
        }
        if trace.checkpoint_id.int
        else {"total": "-"},
        "record": _record(found),
    }


def _error(trace: Trace) -> str:
    if trace.repeated == 1:
        return display(trace.error_code)
    return f"{display(trace.error_code)}, one row for {trace.repeated:,} refused requests"


def _directive(found: _Found) -> Mapping[str, str]:
    trace = found.trace
    if not trace.directive_version_id.int:
        return {"version": "-"}
    return {
        "version": f"{display(found.directive_number)}@{trace.directive_hash[:8]}",
        "id": str(trace.directive_version_id),
    }


def _record(found: _Found) -> Mapping[str, str]:
    trace, session = found.trace, found.session
    rows = {"session id": _id(trace.session_id)}
    if session is not None:
        turns = f"{display(found.turn_index)}, of {session.turn_count} so far; the session is {session.status.value}"
        rows = {"session": display(session.handle), "turn": turns, **rows}
    process = f"{trace.emitter_id}, number {trace.emitter_seq}"
    return {**rows, "checkpoint": _id(trace.checkpoint_id), "process": process}


def _id(found: UUID) -> str:
    return str(found) if found.int else "-"


def _times(trace: Trace) -> Mapping[str, float]:
    """Return the durations to print, in milliseconds: the total, its three parts, and the stages of the first part."""
    stages = trace.auth_ms + trace.rate_limit_ms + trace.directive_ms + trace.inject_ms
    return {
        "total": trace.total_latency_ms,
        "IBEX itself": trace.proxy_overhead_ms,
        "  auth": trace.auth_ms,
        "  rate limit": trace.rate_limit_ms,
        "  directive": trace.directive_ms,
        "  inject": trace.inject_ms,
        "  other": max(0.0, trace.proxy_overhead_ms - stages),
        "first byte": trace.provider_ttfb_ms,
        "answer": answer_ms(trace),
    }
