"""Sessions and checkpoints in PostgreSQL, as the role ``ibex_app``. A batch takes one statement per organization."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Final, LiteralString
from uuid import UUID

import msgspec
import psycopg
from psycopg.types.json import Jsonb
from sqlalchemy import Uuid, and_, bindparam, or_, select
from sqlalchemy.dialects import postgresql

from ibex.adapters.postgres.failures import domain_error
from ibex.adapters.postgres.statements import Statement
from ibex.adapters.postgres.tables import checkpoints, sessions
from ibex.domain.errors import IbexError
from ibex.domain.identity.management import AlreadyExistsError
from ibex.domain.record.history import SessionRecord, TurnRecord
from ibex.domain.record.received_responses import ReceivedResponse
from ibex.domain.record.sessions import SessionStatus, SinkRefusedError, SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from ibex.adapters.postgres.database import Database
    from ibex.domain.record.sessions import Checkpoint

_ROWS_PER_CHUNK: Final = 100

# Batches of one organization run one after the other, because each looks up existing rows and assigns turn numbers and
# request ids. The lock is held until the end of the transaction. PostgreSQL expects a handful of rows in a batch, and
# would compare each of them with each session in a nested loop. The LATERAL lookups below still use loops.
_LOCK_ORGANIZATION: Final[LiteralString] = """
SELECT set_config('enable_nestloop', 'off', true), pg_advisory_xact_lock(hashtextextended(%(key)s, 0))
"""

# The statement computes these columns. The others are the fields of ``Checkpoint``.
_COMPUTED: Final = frozenset({"session_id", "org_id", "turn_index"})
_CHECKPOINT_COLUMNS: Final = [column for column in checkpoints.c if column.name not in _COMPUTED]
_DIALECT: Final = postgresql.dialect()  # type: ignore[no-untyped-call]
_TYPED: Final = ", ".join(f"{column.name} {column.type.compile(_DIALECT)}" for column in _CHECKPOINT_COLUMNS)
_NAMES: Final = ", ".join(column.name for column in _CHECKPOINT_COLUMNS)
_VALUES: Final = ", ".join(
    "CASE WHEN f.request_id_taken THEN f.id ELSE f.request_id END"
    if column.name == "request_id"
    else f"f.{column.name}"
    for column in _CHECKPOINT_COLUMNS
)

# Existing rows are looked up key by key (LATERAL, LIMIT), because a join may read all rows of the organization.
_APPEND: Final = f"""
WITH incoming AS (
  SELECT r.*, (r.session->>'id')::uuid AS session_id, r.session->>'handle' AS handle,
         (r.session->>'ends')::boolean AS ends
  FROM ROWS FROM (jsonb_to_recordset(%(batch)s) AS (
    session jsonb, {_TYPED}
  )) WITH ORDINALITY AS r (session, {_NAMES}, position)
), fresh AS (
  SELECT i.*,
         row_number() OVER (PARTITION BY i.session_id ORDER BY i.position) AS turn,
         count(*) OVER (PARTITION BY i.session_id) AS turns,
         row_number() OVER (PARTITION BY i.request_id ORDER BY i.position) > 1 OR taken.yes IS NOT NULL
           AS request_id_taken
  FROM incoming i
  LEFT JOIN LATERAL (SELECT true AS yes FROM checkpoints c WHERE c.id = i.id LIMIT 1) known ON true
  LEFT JOIN LATERAL (
    SELECT true AS yes FROM checkpoints c WHERE c.org_id = %(org_id)s AND c.request_id = i.request_id LIMIT 1
  ) taken ON true
  WHERE known.yes IS NULL
), touched AS (
  INSERT INTO sessions AS s (
    id, org_id, agent_id, external_id, status, model, provider, directive_version_id, turn_count,
    total_input_tokens, total_output_tokens, total_latency_ms, created_at, updated_at, completed_at
  )
  SELECT f.session_id, %(org_id)s, f.agent_id, f.handle,
         CASE WHEN bool_or(f.ends) THEN 'completed' ELSE 'active' END,
         (array_agg(f.model ORDER BY f.position))[1],
         (array_agg(f.provider ORDER BY f.position))[1],
         (array_agg(f.directive_version_id ORDER BY f.position))[1],
         count(*), coalesce(sum(f.input_tokens), 0), coalesce(sum(f.output_tokens), 0), sum(f.latency_ms),
         min(f.created_at), max(f.created_at), min(f.created_at) FILTER (WHERE f.ends)
  FROM fresh f
  GROUP BY f.session_id, f.agent_id, f.handle
  ORDER BY f.session_id
  ON CONFLICT (id, org_id) DO UPDATE SET
    status = CASE
      WHEN excluded.status = 'completed' THEN 'completed'
      WHEN s.status = 'abandoned' THEN 'active'
      ELSE s.status
    END,
    turn_count = s.turn_count + excluded.turn_count,
    total_input_tokens = s.total_input_tokens + excluded.total_input_tokens,
    total_output_tokens = s.total_output_tokens + excluded.total_output_tokens,
    total_latency_ms = s.total_latency_ms + excluded.total_latency_ms,
    updated_at = greatest(s.updated_at, excluded.updated_at),
    completed_at = coalesce(s.completed_at, excluded.completed_at)
  RETURNING s.id, s.turn_count
)
INSERT INTO checkpoints (session_id, org_id, turn_index, {_NAMES})
SELECT f.session_id, %(org_id)s, t.turn_count - f.turns + f.turn - 1, {_VALUES}
FROM fresh f JOIN touched t ON t.id = f.session_id
""".encode()  # noqa: S608 - only names of tables and columns

# A function of the schema that runs as ``ibex_sweeper``, because ``ibex_app`` sees one organization only (ADR 0027).
_ABANDON: Final[LiteralString] = "SELECT abandon_idle_sessions(%(idle_since)s, %(max_sessions)s)"

_SESSIONS = Statement(
    select(sessions)
    .where(sessions.c.org_id == bindparam("of_org"), sessions.c.deleted_at.is_(None))
    .order_by(sessions.c.updated_at.desc(), sessions.c.id.desc())
    .limit(bindparam("count"))
)
_FIND = Statement(
    select(sessions)
    .where(
        sessions.c.org_id == bindparam("of_org"),
        sessions.c.deleted_at.is_(None),
        or_(sessions.c.id == bindparam("session_id", type_=Uuid()), sessions.c.external_id == bindparam("handle")),
    )
    .order_by(
        (sessions.c.id == bindparam("session_id", type_=Uuid())).desc().nulls_last(),
        sessions.c.updated_at.desc(),
        sessions.c.id.desc(),
    )
    .limit(1)
)
_TURNS = Statement(
    select(checkpoints)
    .where(checkpoints.c.org_id == bindparam("of_org"), checkpoints.c.session_id == bindparam("of_session"))
    .order_by(checkpoints.c.turn_index)
)

_RECEIVED = Statement(
    select(
        checkpoints.c.agent_id,
        checkpoints.c.provider,
        checkpoints.c.directive_version_id,
        sessions.c.external_id,
    )
    .join(sessions, and_(sessions.c.id == checkpoints.c.session_id, sessions.c.org_id == checkpoints.c.org_id))
    .where(checkpoints.c.org_id == bindparam("of_org"), checkpoints.c.response_id == bindparam("response_id"))
    .limit(1)
)


class PostgresSessions:
    """A ``SessionStore``, a ``SessionHistory``, ``IdleSessions`` and a ``ResponseRecord``.

    A completed session stays completed if another turn arrives, because turns can arrive out of order. An abandoned
    session becomes active again. Clients may use a request id twice: if another checkpoint of the organization has the
    request id already, the checkpoint is stored with its own id as request id, so that no turn is lost.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Store checkpoints, in one transaction per organization; see ``SessionStore``."""
        by_org: dict[UUID, dict[UUID, Checkpoint]] = {}
        for checkpoint in checkpoints:
            by_org.setdefault(checkpoint.org_id, {}).setdefault(checkpoint.id, checkpoint)
        try:
            for org_id, batch in by_org.items():
                encoded = await _encode(list(batch.values()))
                async with self._database.transaction(org_id) as connection:
                    await connection.execute(_LOCK_ORGANIZATION, {"key": f"ibex.checkpoints:{org_id}"})
                    with _refusals():
                        await connection.execute(_APPEND, {"org_id": org_id, "batch": encoded})
        except (IbexError, AlreadyExistsError) as error:
            raise SinkUnavailableError(str(error)) from None

    async def abandon(self, idle_since: datetime, limit: int) -> int | None:
        """Mark active sessions without a turn since ``idle_since`` as abandoned; see ``IdleSessions``."""
        try:
            async with self._database.transaction() as connection:
                cursor = await connection.execute(_ABANDON, {"idle_since": idle_since, "max_sessions": limit})
                row = await cursor.fetchone()
        except IbexError as error:
            raise SinkUnavailableError(str(error)) from None
        return row[0] if row is not None else None

    async def received(self, org_id: UUID, response_id: str) -> ReceivedResponse | None:
        """Return the response that an agent of the organization received; see ``ResponseRecord``."""
        async with self._database.transaction(org_id) as connection:
            cursor = await _RECEIVED.run(connection, of_org=org_id, response_id=response_id)
            row = await cursor.fetchone()
        if row is None:
            return None
        return ReceivedResponse(
            id=response_id,
            org_id=org_id,
            agent_id=row["agent_id"],
            session_handle=row["external_id"],
            provider=row["provider"],
            directive_version_id=row["directive_version_id"],
        )

    async def sessions(self, org_id: UUID, limit: int) -> Sequence[SessionRecord]:
        """Return the most recently used sessions, latest first. Raises ``ServiceDegradedError``."""
        async with self._database.transaction(org_id) as connection:
            cursor = await _SESSIONS.run(connection, of_org=org_id, count=limit)
            return [_session(row) for row in await cursor.fetchall()]

    async def find(self, org_id: UUID, session: str) -> SessionRecord | None:
        """Return the session with this id, or else the latest one with this handle. Return None if neither exists.

        Raises ``ServiceDegradedError``.
        """
        async with self._database.transaction(org_id) as connection:
            cursor = await _FIND.run(connection, of_org=org_id, session_id=_uuid(session), handle=session)
            row = await cursor.fetchone()
        return _session(row) if row is not None else None

    async def turns(self, org_id: UUID, session_id: UUID) -> Sequence[TurnRecord]:
        """Return the turns of a session in order, or an empty list. Raises ``ServiceDegradedError``."""
        async with self._database.transaction(org_id) as connection:
            cursor = await _TURNS.run(connection, of_org=org_id, of_session=session_id)
            return [_turn(row) for row in await cursor.fetchall()]


@contextmanager
def _refusals() -> Iterator[None]:
    """Raise ``SinkRefusedError`` for a row that violates a constraint or does not fit a column."""
    try:
        yield
    except (psycopg.IntegrityError, psycopg.DataError) as error:
        raise SinkRefusedError(str(domain_error(error))) from None


async def _encode(batch: Sequence[Checkpoint]) -> Jsonb:
    """Return the batch as JSON, encoded in chunks that do not block the event loop for long.

    NUL and lone surrogates are replaced by U+FFFD, because PostgreSQL's text cannot contain them.
    """
    chunks = []
    for start in range(0, len(batch), _ROWS_PER_CHUNK):
        await asyncio.sleep(0)
        chunks.append(_encode_chunk(batch[start : start + _ROWS_PER_CHUNK]))
    return Jsonb(b"[" + b",".join(chunks) + b"]", dumps=bytes)


def _encode_chunk(chunk: Sequence[Checkpoint]) -> bytes:
    try:
        encoded = msgspec.json.encode(chunk)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode([_without_surrogates(checkpoint) for checkpoint in chunk])
    return encoded[1:-1].replace(rb"\u0000", rb"\ufffd")


def _without_surrogates(checkpoint: Checkpoint) -> Checkpoint:
    def clean(text: str) -> str:
        return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)

    provider_request_id = checkpoint.provider_request_id
    return replace(
        checkpoint,
        model=clean(checkpoint.model),
        provider_request_id=provider_request_id and clean(provider_request_id),
    )


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _session(row: Mapping[str, Any]) -> SessionRecord:
    return SessionRecord(
        id=row["id"],
        handle=row["external_id"],
        agent_id=row["agent_id"],
        status=SessionStatus(row["status"]),
        model=row["model"],
        provider=row["provider"],
        turn_count=row["turn_count"],
        total_input_tokens=row["total_input_tokens"],
        total_output_tokens=row["total_output_tokens"],
        total_latency_ms=row["total_latency_ms"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _turn(row: Mapping[str, Any]) -> TurnRecord:
    return TurnRecord(**{field.name: row[field.name] for field in fields(TurnRecord)})
