"""The page about ClickHouse's tables. Columns, types and settings come from the migrations."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final

from tools.reference.markdown import code, table

_CREATED: Final = re.compile(r"^    (\w+) +([A-Z]\w+(?:\([^)]*\))?),?$", re.MULTILINE)
_ADDED: Final = re.compile(r"ADD COLUMN IF NOT EXISTS (\w+) (\w+(?:\([^)]*\))?)")
_TABLE_CLAUSES: Final = re.compile(r"^(PARTITION BY|ORDER BY|TTL) (.+)$", re.MULTILINE)
_INTRODUCTION: Final = """\
# ClickHouse schema

`llm_traces` has one row for each request whose organization is known. This includes refused requests. No column can be
NULL: 0, the empty text and the nil UUID mean *none* ([ADR 0007](../adr/0007-trace-columns-are-not-nullable.md)). Times
are UTC with microseconds, durations are milliseconds with three decimals. No column contains the text of a message.

Count requests with `sum(repeated)`, not with `count()`: one row can stand for many refused requests
([ADR 0041](../adr/0041-refused-requests-are-bounded.md)).

    SELECT model, sum(repeated) AS requests, sum(input_tokens) AS input, sum(output_tokens) AS output
    FROM llm_traces
    WHERE org_id = '<organization>' AND requested_at > now() - INTERVAL 1 DAY
    GROUP BY model

This page is generated from the migrations in `src/ibex/adapters/clickhouse/migrations`.

## llm_traces
"""
_OUTRO: Final = """
On a [cluster](../clickhouse.md), each server has rows in `llm_traces_local`, and `llm_traces` reads those of all
servers. `schema_migrations` has one row for each migration: `version`, `name`, `checksum`, `applied_at`.
"""
_MEANINGS: Final = {
    "request_id": "The id in `X-Request-ID`. Clients can choose the id, so several rows can have the same one.",
    "org_id": "The organization.",
    "agent_id": "The agent; nil if the request was refused before the agent was verified.",
    "session_id": "The session, `sessions.id` in PostgreSQL; nil without one.",
    "checkpoint_id": "The checkpoint in PostgreSQL; nil if the request is no turn or did not reach the provider.",
    "model": "The model that the client asked for, once its body is parsed.",
    "provider": "The provider, such as `openai` or `echo`.",
    "is_streaming": "Whether the client asked for a stream.",
    "input_tokens": "Tokens of the input, as the provider reports them; 0 if it does not.",
    "output_tokens": "Tokens of the output.",
    "total_tokens": "Total tokens, as the provider reports them.",
    "cached_tokens": "Input tokens that the provider had cached; they are included in `input_tokens`.",
    "reasoning_tokens": "Output tokens of reasoning; they are included in `output_tokens`.",
    "auth_ms": "Time to verify token and agent.",
    "rate_limit_ms": "Time to count the request.",
    "directive_ms": "Time to look up the directive.",
    "inject_ms": "Time to inject the directive.",
    "provider_ttfb_ms": "Time from the first attempt to the provider's first byte; to the whole body if not streamed.",
    "proxy_overhead_ms": "Total time, minus the time from the first attempt to the provider's last byte.",
    "total_latency_ms": "Total time, to the last byte.",
    "status_code": "The outcome as an HTTP status; 499 if the client left, even if a stream had begun with 200.",
    "is_complete": "Whether the response is complete.",
    "error_code": "The [error code](errors.md); empty for a success.",
    "finish_reason": "The provider's reason for the end of the output.",
    "attempts": "How often IBEX sent the request to the provider.",
    "directive_version_id": "The injected version of the directive; nil without one.",
    "directive_hash": "SHA-256 of the directive's text, in hex.",
    "auth_cache": "`hit` if token and agent were in the worker's cache, else `miss`.",
    "requested_at": "When the request arrived.",
    "completed_at": "When the request ended.",
    "emitter_id": "The process that recorded the row.",
    "emitter_seq": "The number of the row in this process, from 1 without gaps: `ibex traces gaps` checks this.",
    "repeated": "How many requests the row stands for. More than 1 only for refused requests.",
    "operation": "The operation, such as `chat.completions`. Empty in rows that are older than the column.",
    "inserted_at": "When ClickHouse stored the row.",
    "token_id": "The token; nil in rows that are older than the column, and if the row stands for several tokens.",
    "user_id": "The user that owns the token; nil without one.",
}


def columns() -> dict[str, str]:
    """Return the type of each column of ``llm_traces`` by name, in the order of the migrations."""
    text = _migrations()
    return dict([*_CREATED.findall(text), *_ADDED.findall(text)])


def page() -> str:
    """Return the text of the page. Raises ``KeyError`` for a column without a meaning here."""
    rows = [(code(name), code(kind), _MEANINGS[name]) for name, kind in columns().items()]
    clauses = [f"* `{name}`: `{value}`" for name, value in _TABLE_CLAUSES.findall(_migrations())]
    return "\n".join([_INTRODUCTION, *table(("column", "type", "meaning"), rows), "", *clauses, _OUTRO])


def _migrations() -> str:
    folder = files("ibex.adapters.clickhouse") / "migrations"
    names = sorted(path.name for path in folder.iterdir() if path.name.endswith(".sql"))
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)
