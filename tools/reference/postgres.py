"""The page about PostgreSQL's tables. Columns and types come from ``adapters/postgres/tables.py``.

A test compares these tables with a migrated database, so the page matches the migrations too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy.dialects.postgresql import dialect
from tools.reference.markdown import code, table

from ibex.adapters.postgres.tables import METADATA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Column, Table

_INTRODUCTION: Final = """\
# PostgreSQL schema

PostgreSQL stores identity, directives, and the record of sessions. `ibex migrate` creates the schema. No table contains
the text of a message or a token: IBEX stores only hashes of them.

* Every row of an organization has its `org_id`. Row-level security gives `ibex_app` only the rows of the organization
  that a transaction names; `ibex_auth` sees the identity data of all organizations.
* `directive_versions` and `checkpoints` are append-only: triggers refuse changes.
* Triggers add a row to `changes` whenever a row that workers cache changes. They do so for changes made with SQL too
  ([freshness](../explanation/freshness.md)).
* Times are `timestamp with time zone`. Ids are UUIDs.

Read these tables, but change them with the [commands](cli.md). A later version can add columns.

This page is generated from `src/ibex/adapters/postgres/tables.py`.
"""
_TABLES: Final = {
    "organizations": "The organizations.",
    "users": "The people of an organization. A token can belong to one of them.",
    "agents": "The agents of an organization. Names are unique in it.",
    "tokens": "Personal access tokens. IBEX keeps only a keyed hash of each.",
    "directives": "One row for each agent that has a directive: which version is in force.",
    "directive_versions": "The text of each version. Append-only.",
    "sessions": "Sessions with the totals of their turns.",
    "checkpoints": "One row for each turn. Append-only.",
    "changes": "The change log, which the watch delivers. Rows are deleted after an hour.",
    "change_snapshots": "One row a minute: up to where changes have been, or will be, deleted.",
    "change_incarnation": "A random value that PostgreSQL loses in crash recovery and on promotion.",
}
# The meaning of columns that have the same one in every table.
_EVERYWHERE: Final = {
    "id": "The id.",
    "org_id": "The organization.",
    "agent_id": "The agent.",
    "created_at": "When the row was created.",
    "updated_at": "When the row was last changed.",
    "provider": "The provider.",
    "model": "The model that the client asked for.",
}
_MEANINGS: Final = {
    "organizations.name": "The name, unique.",
    "organizations.status": "Requests of a suspended organization are refused.",
    "organizations.rate_limit_rpm": "Requests per minute; 0: unlimited; NULL: `IBEX_RATE_LIMIT_DEFAULT_RPM`.",
    "users.email": "The address, unique in the organization.",
    "agents.name": "The name.",
    "agents.status": "Only the requests of an active agent are served.",
    "tokens.id": "The id, which is part of the token: `ibex_pat_<id>_...`.",
    "tokens.name": "The name that was given when the token was created.",
    "tokens.permissions": "The permissions, as a bitmap.",
    "tokens.key_id": "The pepper with which `digest` was made: a key id of `IBEX_TOKEN_PEPPERS`.",
    "tokens.digest": "HMAC-SHA-256 of the token.",
    "tokens.user_id": "The user that owns the token; NULL for none.",
    "tokens.agent_id": "The agent that the token is bound to; NULL for none.",
    "tokens.expires_at": "When the token expires; NULL for never.",
    "tokens.revoked_at": "When the token was revoked; NULL if it was not.",
    "directives.injection_mode": "Where the text is injected.",
    "directives.is_active": "False: nothing is injected.",
    "directives.active_version_id": "The version in force.",
    "directives.previous_version_id": "The version that was in force before it; NULL if none is recorded.",
    "directive_versions.number": "The number of the version, from 1 for each agent.",
    "directive_versions.text": "The text.",
    "directive_versions.sha256": "SHA-256 of the text, in hex. Responses and traces name its first eight digits.",
    "directive_versions.author": "The author.",
    "directive_versions.injection_mode": "The mode that belongs to the version; NULL in rows older than the column.",
    "sessions.id": "The id, derived from organization, agent and handle.",
    "sessions.external_id": "The handle: `X-IBEX-Session-ID`.",
    "sessions.status": "`abandoned` after `IBEX_SESSION_IDLE_TIMEOUT` without a turn, until the next one.",
    "sessions.model": "The model of the first turn.",
    "sessions.provider": "The provider of the first turn.",
    "sessions.directive_version_id": "The directive of the first turn; NULL without one.",
    "sessions.turn_count": "The number of turns.",
    "sessions.total_input_tokens": "Sum of the input tokens over all turns. Turns without a count add nothing.",
    "sessions.total_output_tokens": "Sum of the output tokens over all turns.",
    "sessions.total_latency_ms": "Sum of the durations of the turns, in milliseconds.",
    "sessions.last_extracted_turn": "For a later version. IBEX does not write it.",
    "sessions.completed_at": "When a turn with `X-IBEX-Session-End: true` completed it.",
    "sessions.deleted_at": "For a later version. IBEX does not write it.",
    "checkpoints.id": "The id of the exchange; `checkpoint_id` in the trace.",
    "checkpoints.session_id": "The session.",
    "checkpoints.turn_index": "The number of the turn in the session, from 0 without gaps.",
    "checkpoints.request_id": "The id in `X-Request-ID`; the exchange's own if the client repeats one.",
    "checkpoints.messages_hash": "SHA-256 of the input as the client sent it, in hex.",
    "checkpoints.completion_hash": "SHA-256 of the output, in hex; NULL if there was none.",
    "checkpoints.input_tokens": "Tokens of the input; NULL if the provider did not report them.",
    "checkpoints.output_tokens": "Tokens of the output; NULL if the provider did not report them.",
    "checkpoints.latency_ms": "Total time of the request, in milliseconds.",
    "checkpoints.provider_request_id": "The provider's id of the request.",
    "checkpoints.is_streaming": "Whether the client asked for a stream.",
    "checkpoints.is_complete": "Whether the response is complete.",
    "checkpoints.created_at": "When the request ended.",
    "checkpoints.token_id": "The token. Not a foreign key: records outlive tokens.",
    "checkpoints.user_id": "The user that owns the token; NULL for none.",
    "checkpoints.operation": "The operation, such as `chat.completions`.",
    "checkpoints.response_id": "The id of the response that later requests can name; NULL for none.",
    "checkpoints.directive_version_id": "The version that was injected; NULL for none.",
    "changes.xid": "The transaction of the change.",
    "changes.kind": "What workers look up again: tokens (and organizations), agents or directives.",
    "changes.live_token": "The token that the change created or restored; NULL for other changes.",
    "change_snapshots.taken_at": "When the snapshot was taken.",
    "change_snapshots.snapshot": "The snapshot, as `pg_current_snapshot()` returns it.",
    "change_snapshots.is_pruned": "Whether the changes before it are deleted.",
    "change_incarnation.only_row": "Always true: the table has one row.",
    "change_incarnation.value": "The random value.",
}


def page() -> str:
    """Return the text of the page. Raises ``KeyError`` for a table or a column without a meaning here."""
    lines = [_INTRODUCTION]
    for one in METADATA.tables.values():
        lines += [f"## {one.name}", "", _TABLES[one.name], "", *table(("column", "type", "meaning"), _rows(one)), ""]
        lines += [*_keys(one), ""]
    return "\n".join(lines)


def _rows(one: Table) -> Iterator[tuple[str, str, str]]:
    for column in one.columns:
        name = f"{one.name}.{column.name}"
        meaning = _MEANINGS.get(name) or _EVERYWHERE[column.name]
        yield code(column.name), code(_type(column)), meaning


def _type(column: Column[object]) -> str:
    kind = column.type.compile(dialect=dialect()).lower()  # type: ignore[no-untyped-call]
    return kind.replace("timestamp with time zone", "timestamptz") + (" null" if column.nullable else "")


def _keys(one: Table) -> list[str]:
    """Return a list of the primary key and of what the table refers to."""
    names = ", ".join(code(column.name) for column in one.primary_key.columns)
    lines = [f"* Primary key: {names}."]
    for key in sorted(one.foreign_key_constraints, key=lambda found: list(found.column_keys)):
        columns = ", ".join(code(name) for name in key.column_keys)
        verb = "refers" if len(key.column_keys) == 1 else "refer"
        lines.append(f"* {columns} {verb} to [{key.referred_table.name}](#{key.referred_table.name}).")
    return lines
