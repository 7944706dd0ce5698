"""The URL of a database, whose password may change while the process runs (ADR 0061)."""

from __future__ import annotations

from typing import Any, cast

import psycopg
from psycopg import AsyncConnection


class RotatingUrl:
    """A database URL that can be replaced. New connections use the newest URL that the server accepts.

    The former URL is the second choice until the server has accepted the new one. So the file of a password can be
    changed before the server's password, without a moment in which no connection can be made.
    """

    def __init__(self, url: str) -> None:
        self.current = url
        self._former: str | None = None

    def replace(self, url: str) -> None:
        """Use another URL for new connections. Open connections stay."""
        if url != self.current:
            self.current, self._former = url, self.current

    def connection_class(self, base: type[AsyncConnection[Any]]) -> type[AsyncConnection[Any]]:
        """Return a subclass for the connections of a pool, which connects to this URL instead of the pool's."""
        urls = self

        class RotatingConnection(base):  # type: ignore[valid-type, misc]  # the base is an argument
            """A connection to the newest URL that the server accepts."""

            @classmethod
            async def connect(cls, conninfo: str = "", **arguments: Any) -> RotatingConnection:
                """Connect; see ``RotatingUrl``. The URL in ``conninfo``, which the pool passes, is not used."""
                del conninfo
                return cast("RotatingConnection", await urls.connect(super().connect, arguments))

        return RotatingConnection

    async def connect(self, connect: Any, arguments: dict[str, Any]) -> Any:
        """Call ``connect`` with the current URL, and with the former one if the server refuses the current one."""
        current, former = self.current, self._former
        try:
            connection = await connect(current, **arguments)
        except psycopg.errors.ConnectionTimeout:
            raise
        except psycopg.OperationalError:
            if former is None:
                raise
        else:
            if current == self.current:
                self._former = None
            return connection
        return await connect(former, **arguments)
