"""Directives in PostgreSQL, accessed as the role ``ibex_app`` in transactions that are bound to the organization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, and_, bindparam, case, func, insert, literal, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from ibex.adapters.postgres.statements import Statement
from ibex.adapters.postgres.tables import directive_versions as versions
from ibex.adapters.postgres.tables import directives
from ibex.domain.directives.management import DirectiveState, DirectiveVersion
from ibex.domain.directives.model import Directive, InjectionMode
from ibex.domain.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from psycopg import AsyncConnection

    from ibex.adapters.postgres.database import Database
    from ibex.domain.directives.management import DirectiveDraft

_OF_AGENT = and_(directives.c.agent_id == bindparam("of_agent"), directives.c.org_id == bindparam("of_org"))
_PREVIOUS = versions.alias("previous")
_STATE_OF_AGENT = (
    select(
        directives.c.injection_mode.label("mode"),
        directives.c.is_active,
        directives.c.updated_at,
        _PREVIOUS.c.number.label("previous_number"),
        versions,
    )
    .join(versions, versions.c.id == directives.c.active_version_id)
    .outerjoin(_PREVIOUS, _PREVIOUS.c.id == directives.c.previous_version_id)
    .where(_OF_AGENT)
)
_STATE = Statement(_STATE_OF_AGENT)
_LOCKED_STATE = Statement(_STATE_OF_AGENT.with_for_update(of=directives))
_ACTIVE = Statement(
    select(directives.c.injection_mode, versions.c.id, versions.c.number, versions.c.text, versions.c.sha256)
    .join(versions, versions.c.id == directives.c.active_version_id)
    .where(_OF_AGENT, directives.c.is_active)
)
_BY_ID = Statement(
    select(
        func.coalesce(versions.c.injection_mode, directives.c.injection_mode).label("injection_mode"),
        versions.c.id,
        versions.c.number,
        versions.c.text,
        versions.c.sha256,
    )
    .join(directives, and_(directives.c.agent_id == versions.c.agent_id, directives.c.org_id == versions.c.org_id))
    .where(versions.c.id == bindparam("version_id"), versions.c.org_id == bindparam("of_org"))
)
_HISTORY = Statement(
    select(versions)
    .where(versions.c.agent_id == bindparam("of_agent"), versions.c.org_id == bindparam("of_org"))
    .order_by(versions.c.number.desc())
)
_POINT_AT_NEW = Statement(
    upsert(directives)
    .values(
        agent_id=bindparam("of_agent"),
        org_id=bindparam("of_org"),
        injection_mode=func.coalesce(bindparam("mode", type_=Text()), literal(InjectionMode.SYSTEM_FIRST.value)),
        is_active=True,
        active_version_id=bindparam("version_id"),
    )
    .on_conflict_do_update(
        index_elements=[directives.c.agent_id, directives.c.org_id],
        set_={
            "injection_mode": func.coalesce(bindparam("mode", type_=Text()), directives.c.injection_mode),
            "is_active": True,
            "active_version_id": bindparam("version_id"),
            "previous_version_id": directives.c.active_version_id,
            "updated_at": func.now(),
        },
    )
)
_ADD_VERSION = Statement(
    insert(versions).from_select(
        ["id", "agent_id", "org_id", "number", "text", "sha256", "author", "created_at", "injection_mode"],
        select(
            bindparam("id", type_=versions.c.id.type),
            bindparam("of_agent", type_=versions.c.agent_id.type),
            bindparam("of_org", type_=versions.c.org_id.type),
            func.coalesce(func.max(versions.c.number), 0) + 1,
            bindparam("text", type_=Text()),
            bindparam("sha256", type_=Text()),
            bindparam("author", type_=Text()),
            bindparam("created_at", type_=versions.c.created_at.type),
            select(directives.c.injection_mode).where(_OF_AGENT).scalar_subquery(),
        ).where(versions.c.agent_id == bindparam("of_agent"), versions.c.org_id == bindparam("of_org")),
    )
)
_ACTIVATE = Statement(
    update(directives)
    .where(
        _OF_AGENT,
        versions.c.agent_id == directives.c.agent_id,
        versions.c.org_id == directives.c.org_id,
        versions.c.number == bindparam("number"),
    )
    .values(
        is_active=True,
        active_version_id=versions.c.id,
        injection_mode=func.coalesce(versions.c.injection_mode, directives.c.injection_mode),
        previous_version_id=case(
            (directives.c.active_version_id == versions.c.id, directives.c.previous_version_id),
            else_=directives.c.active_version_id,
        ),
        updated_at=func.now(),
    )
)
_DEACTIVATE = Statement(update(directives).where(_OF_AGENT).values(is_active=False, updated_at=func.now()))


class PostgresDirectives:
    """A ``DirectiveStore``, a ``DirectiveLookup`` and ``DirectiveVersions``. A trigger records changes in the log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def active(self, org_id: UUID, agent_id: UUID) -> Directive | None:
        """Return the active directive; None if the agent has none; see ``DirectiveLookup``."""
        async with self._database.transaction(org_id) as connection:
            row = await (await _ACTIVE.run(connection, of_org=org_id, of_agent=agent_id)).fetchone()
        return None if row is None else _directive(row)

    async def version(self, org_id: UUID, version_id: UUID) -> Directive | None:
        """Return a version, or None; see ``DirectiveVersions``."""
        async with self._database.transaction(org_id) as connection:
            row = await (await _BY_ID.run(connection, of_org=org_id, version_id=version_id)).fetchone()
        return None if row is None else _directive(row)

    async def add_version(
        self, org_id: UUID, agent_id: UUID, draft: DirectiveDraft, mode: InjectionMode | None
    ) -> DirectiveState | None:
        """Add a version and make it the active one; see ``DirectiveStore``.

        The row of the directive is written first, because it is the lock under which the next number is computed.
        """
        of = {"of_org": org_id, "of_agent": agent_id}
        try:
            async with self._database.transaction(org_id) as connection:
                state = await _state(connection, org_id, agent_id, _LOCKED_STATE)
                if state is not None and state.already_has(draft, mode):
                    return state
                await _POINT_AT_NEW.run(connection, **of, mode=mode and mode.value, version_id=draft.id)
                await _ADD_VERSION.run(
                    connection,
                    **of,
                    id=draft.id,
                    text=draft.text,
                    sha256=draft.sha256,
                    author=draft.author,
                    created_at=draft.created_at,
                )
                return await _state(connection, org_id, agent_id)
        except NotFoundError:
            return None

    async def state(self, org_id: UUID, agent_id: UUID) -> DirectiveState | None:
        """Return the directive's state; None if the agent has no directive."""
        async with self._database.transaction(org_id) as connection:
            return await _state(connection, org_id, agent_id)

    async def history(self, org_id: UUID, agent_id: UUID) -> Sequence[DirectiveVersion]:
        """Return all versions, newest first; empty if the agent has no directive."""
        async with self._database.transaction(org_id) as connection:
            cursor = await _HISTORY.run(connection, of_org=org_id, of_agent=agent_id)
            return [_version(row) for row in await cursor.fetchall()]

    async def activate(self, org_id: UUID, agent_id: UUID, number: int) -> DirectiveState | None:
        """Make a version the active one and activate the directive. None if there is no such version."""
        return await self._change(_ACTIVATE, org_id, agent_id, number=number)

    async def deactivate(self, org_id: UUID, agent_id: UUID) -> DirectiveState | None:
        """Stop the injection of the directive. None if the agent has no directive."""
        return await self._change(_DEACTIVATE, org_id, agent_id)

    async def _change(
        self, statement: Statement, org_id: UUID, agent_id: UUID, **values: object
    ) -> DirectiveState | None:
        async with self._database.transaction(org_id) as connection:
            changed = await statement.run(connection, of_org=org_id, of_agent=agent_id, **values)
            return await _state(connection, org_id, agent_id) if changed.rowcount else None


async def _state(
    connection: AsyncConnection[Any], org_id: UUID, agent_id: UUID, statement: Statement = _STATE
) -> DirectiveState | None:
    row = await (await statement.run(connection, of_org=org_id, of_agent=agent_id)).fetchone()
    if row is None:
        return None
    return DirectiveState(
        agent_id=agent_id,
        mode=InjectionMode(row["mode"]),
        is_active=row["is_active"],
        version=_version(row),
        changed_at=row["updated_at"],
        previous_number=row["previous_number"],
    )


def _directive(row: Mapping[str, Any]) -> Directive:
    return Directive(row["id"], row["number"], InjectionMode(row["injection_mode"]), row["text"], row["sha256"])


def _version(row: Mapping[str, Any]) -> DirectiveVersion:
    return DirectiveVersion(
        id=row["id"],
        number=row["number"],
        text=row["text"],
        sha256=row["sha256"],
        author=row["author"],
        created_at=row["created_at"],
        mode=InjectionMode(row["injection_mode"]) if row["injection_mode"] else None,
    )
