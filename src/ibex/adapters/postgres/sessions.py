"""Sessions and checkpoints in PostgreSQL, as the role ``ibex_app``. One statement records a batch."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Final, LiteralString
from uuid import UUID

import msgspec
import psycopg
from psycopg.types.json import Jsonb
from sqlalchemy import ARRAY, Uuid, and_, any_, bindparam, or_, select

from ibex.adapters.postgres.failures import domain_error
from ibex.adapters.postgres.statements import Statement
from ibex.adapters.postgres.tables import checkpoints, sessions
from ibex.domain.errors import IbexError
from ibex.domain.identity.management import AlreadyExistsError
from ibex.domain.record.history import SessionRecord, TurnRecord
from ibex.domain.record.received_responses import ReceivedResponse
from ibex.domain.record.sessions import SessionStatus, SinkRefusedError, SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import datetime

    from ibex.adapters.postgres.database import Database
    from ibex.domain.record.sessions import Checkpoint

_ROWS_PER_CHUNK: Final = 100
# Each organization of a call takes a lock, and all connections of a server share its table of locks. By default it has
# room for 64 locks per connection.
ORGANIZATIONS_PER_CALL: Final = 250

# A function of the schema that runs as ``ibex_recorder``, because ``ibex_app`` sees one organization only (ADR 0057).
_RECORD: Final[LiteralString] = "SELECT record_turns(%(batch)s, %(waits)s)"

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
_HANDLES = Statement(
    select(sessions.c.id, sessions.c.external_id).where(
        sessions.c.org_id == bindparam("of_org"),
        sessions.c.deleted_at.is_(None),
        sessions.c.id == any_(bindparam("session_ids", type_=ARRAY(Uuid()))),
    )
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

    def __init__(self, database: Database, *, organizations_per_call: int = ORGANIZATIONS_PER_CALL) -> None:
        self._database = database
        self._organizations_per_call = organizations_per_call

    async def append(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Store checkpoints; see ``SessionStore``.

        An organization is contended while another transaction records turns of it. The others do not wait for it.
        """
        by_org: dict[UUID, dict[UUID, Checkpoint]] = {}
        for checkpoint in checkpoints:
            by_org.setdefault(checkpoint.org_id, {}).setdefault(checkpoint.id, checkpoint)
        try:
            contended = await self._record(by_org, waits=False)
            while contended:
                contended = await self._record({org_id: by_org[org_id] for org_id in contended}, waits=True)
        except (IbexError, AlreadyExistsError) as error:
            raise SinkUnavailableError(str(error)) from None

    async def _record(self, by_org: Mapping[UUID, Mapping[UUID, Checkpoint]], *, waits: bool) -> Sequence[UUID]:
        """Record turns, in one transaction per call, and return the organizations that are contended.

        If ``waits``, each call waits until at least one organization is not.
        """
        batches = list(by_org.values())
        contended: list[UUID] = []
        for start in range(0, len(batches), self._organizations_per_call):
            some = batches[start : start + self._organizations_per_call]
            encoded = await _encode([checkpoint for batch in some for checkpoint in batch.values()])
            with _refusals():
                [(found,)] = await self._database.execute_and_commit(_RECORD, {"batch": encoded, "waits": waits})
            contended.extend(found)
        return contended

    async def check_append(self) -> None:
        """Record an empty batch, to verify that the role may record turns.

        Raises ``ServiceDegradedError`` if the database does not answer or lacks the function, and ``InternalError`` if
        the role may not call it.
        """
        await self._database.execute_and_commit(_RECORD, {"batch": Jsonb([]), "waits": False})

    async def abandon(self, idle_since: datetime, limit: int) -> int | None:
        """Mark active sessions without a turn since ``idle_since`` as abandoned; see ``IdleSessions``."""
        try:
            [(abandoned,)] = await self._database.execute_and_commit(
                _ABANDON, {"idle_since": idle_since, "max_sessions": limit}
            )
        except IbexError as error:
            raise SinkUnavailableError(str(error)) from None
        return int(abandoned) if abandoned is not None else None

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

    async def handles(self, org_id: UUID, session_ids: Collection[UUID]) -> Mapping[UUID, str]:
        """Return the handles of these sessions by id. Raises ``ServiceDegradedError``."""
        async with self._database.transaction(org_id) as connection:
            cursor = await _HANDLES.run(connection, of_org=org_id, session_ids=list(session_ids))
            return {row["id"]: row["external_id"] for row in await cursor.fetchall()}

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
