"""The database roles of IBEX, and the refusal to run with more rights than they have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import psycopg

if TYPE_CHECKING:
    from psycopg import AsyncConnection

APP_ROLE: Final = "ibex_app"
AUTH_ROLE: Final = "ibex_auth"

_RIGHTS = """
SELECT current_user,
       (SELECT bool_or(r.rolsuper) FROM pg_roles r WHERE pg_has_role(current_user, r.oid, 'MEMBER')),
       (SELECT bool_or(r.rolbypassrls) FROM pg_roles r WHERE pg_has_role(current_user, r.oid, 'MEMBER')),
       EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
                 AND pg_has_role(current_user, c.relowner, 'MEMBER')),
       EXISTS (SELECT FROM pg_roles r WHERE r.rolname = %(role)s AND pg_has_role(current_user, r.oid, 'USAGE')),
       pg_is_in_recovery()
"""


class UnsafeRoleError(Exception):
    """The role of a connection may do more than it should, or is not the role that is meant; the message says which."""


async def check_role(connection: AsyncConnection[Any], role: str) -> None:
    """Raise ``UnsafeRoleError`` unless the connection acts as ``role`` and row-level security binds it.

    What it could become by SET ROLE counts as well: an injected statement can do that. Raises ``psycopg.Error`` if the
    database cannot say, or if it is in recovery: a standby may lack the newest changes. A server never goes into
    recovery while a connection to it is open, so checking each new connection is enough.
    """
    cursor = await connection.execute(_RIGHTS, {"role": role})
    row = await cursor.fetchone()
    if row is None:
        raise UnsafeRoleError("PostgreSQL does not say who is connected")
    name, is_superuser, bypasses, owns, is_meant, is_in_recovery = row
    if is_in_recovery:
        raise psycopg.OperationalError("the server is a standby: it may lack the newest changes")
    if is_superuser:
        raise UnsafeRoleError(f"the database role {name!r} is a superuser or may become one; use {role!r}")
    if bypasses:
        raise UnsafeRoleError(f"the database role {name!r} may bypass row-level security; use {role!r}")
    if owns:
        raise UnsafeRoleError(f"the database role {name!r} owns tables or may act as their owner; use {role!r}")
    if not is_meant:
        raise UnsafeRoleError(f"the database role {name!r} is not {role!r}; has `ibex migrate` run?")
