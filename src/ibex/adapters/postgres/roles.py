"""The database roles of IBEX, and the check that a connection has no more rights than its role."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ibex.adapters.postgres.connections import StandbyError

if TYPE_CHECKING:
    from psycopg import AsyncConnection

APP_ROLE: Final = "ibex_app"
AUTH_ROLE: Final = "ibex_auth"
# The owners of the schema's functions. They see rows of every organization, and nobody connects as one of them.
FUNCTION_ROLES: Final = ("ibex_recorder", "ibex_sweeper")

_RIGHTS = """
SELECT current_user,
       (SELECT bool_or(r.rolsuper) FROM pg_roles r WHERE pg_has_role(current_user, r.oid, 'MEMBER')),
       (SELECT bool_or(r.rolbypassrls) FROM pg_roles r WHERE pg_has_role(current_user, r.oid, 'MEMBER')),
       EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
                 AND pg_has_role(current_user, c.relowner, 'MEMBER')),
       (SELECT min(r.rolname) FROM pg_roles r
        WHERE r.rolname = ANY (%(function_roles)s) AND pg_has_role(current_user, r.oid, 'MEMBER')),
       EXISTS (SELECT FROM pg_roles r WHERE r.rolname = %(role)s AND pg_has_role(current_user, r.oid, 'USAGE')),
       pg_is_in_recovery()
"""


class UnsafeRoleError(Exception):
    """A connection's role has rights that it must not have, or is not the expected role. The message says which."""


async def check_role(connection: AsyncConnection[Any], role: str) -> None:
    """Raise ``UnsafeRoleError`` unless the connection has the rights of ``role`` and is bound by row-level security.

    Roles that it can take by SET ROLE count as well, because an injected statement could do that. Raises
    ``psycopg.Error`` if the database does not answer, and ``StandbyError`` if it is in recovery. The connection is then
    closed within a transaction, because a pooler closes its own connection to the standby too, and makes another.
    """
    await connection.execute(b"BEGIN")
    cursor = await connection.execute(_RIGHTS, {"role": role, "function_roles": list(FUNCTION_ROLES)})
    row = await cursor.fetchone()
    if row is not None and row[-1]:
        await connection.close()
        raise StandbyError("the server is a standby, which may lack the newest changes; use the primary")
    await connection.execute(b"COMMIT")
    if row is None:
        raise UnsafeRoleError("PostgreSQL did not return the rights of the connection's role")
    name, is_superuser, bypasses, owns, function_role, is_expected, _ = row
    if is_superuser:
        raise UnsafeRoleError(f"the database role {name!r} is a superuser or can become one; use {role!r}")
    if bypasses:
        raise UnsafeRoleError(f"the database role {name!r} can bypass row-level security; use {role!r}")
    if owns:
        raise UnsafeRoleError(f"the database role {name!r} owns tables or can act as their owner; use {role!r}")
    if function_role is not None:
        raise UnsafeRoleError(f"the database role {name!r} is a member of {function_role!r}; use {role!r}")
    if not is_expected:
        raise UnsafeRoleError(f"the database role {name!r} is not {role!r}; `ibex migrate` creates that role")
