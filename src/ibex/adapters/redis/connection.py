"""One redis-py connection, shared by several batches of commands at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

import hiredis
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio.connection import AbstractConnection

Command: TypeAlias = "tuple[Any, ...]"


class LinkError(Exception):
    """Redis cannot be reached, does not answer in time, or refuses a command. The message holds no key and no value."""


class ServerConnection:
    """A connection that is good until something goes wrong with it, and then never again.

    Batches are sent at once, and each waits for its turn to read: redis-py's connection has one reader at a time.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        """Take one of redis-py's that is not connected."""
        self._connection = connection
        self._last: asyncio.Future[None] | None = None
        self._broken = False

    async def open(self) -> None:
        """Connect and authenticate. Raises ``LinkError``. Has no time limit of its own."""
        try:
            await self._connection.connect()  # type: ignore[no-untyped-call]  # redis-py's
        except Exception as error:  # noqa: BLE001 - a credential provider is the operator's code
            await self.close()
            raise LinkError(_reason(error)) from None
        except BaseException:
            await self.close()
            raise

    @property
    def is_good(self) -> bool:
        """Whether it may be used."""
        return not self._broken and self._connection.is_connected

    async def is_stale(self) -> bool:
        """Tell whether the server has closed an idle connection, or has sent something without being asked."""
        if self._last is not None and not self._last.done():
            return False
        try:
            return await self._connection.can_read()
        except (RedisError, OSError):
            return True

    async def call(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one write and return their replies, in order; a refusal is an exception in its place.

        Raises ``LinkError`` if the connection breaks. Cancelling it breaks the connection: late replies would be taken
        for others'.
        """
        if not self.is_good:
            raise LinkError("not connected")
        connection = self._connection
        packed = b"".join(map(hiredis.pack_command, commands))
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        before, self._last = self._last, turn
        replies: list[Any] = []
        try:
            await connection.send_packed_command(packed, check_health=False)
            if before is not None and not before.done():
                await before
            for _ in commands:
                try:
                    replies.append(await connection.read_response())
                except ResponseError as refusal:
                    replies.append(refusal.with_traceback(None))  # whose frames have it themselves (ADR 0033)
        except (RedisError, OSError) as error:
            await self.close()
            raise LinkError(_reason(error)) from None
        except BaseException:
            await self.close()
            raise
        finally:
            if not turn.done():
                turn.set_result(None)
        return replies

    async def close(self) -> None:
        """Disconnect; what is under way fails. Closing it again does nothing."""
        self._broken = True
        await self._connection.disconnect(nowait=True)


def refusal_of(reply: ResponseError) -> str:
    """Return the reason for an error reply: its code, and nothing of the rest, which may quote values."""
    return f"refused ({reply.status_code or str(reply).partition(' ')[0]})"


def _reason(error: Exception) -> str:
    """Return what went wrong; forget the tracebacks, whose frames lead back to the errors (ADR 0033)."""
    cause = error.__context__
    if isinstance(error, AuthenticationError | BusyLoadingError | ResponseError):
        reason = f"refused ({getattr(error, 'status_code', None) or type(error).__name__})"
    elif isinstance(cause, OSError):
        reason = f"cannot connect ({type(cause).__name__})"
    else:
        reason = f"the connection broke ({type(error).__name__})"
    forgotten: BaseException | None = error
    while forgotten is not None:
        forgotten.__traceback__, forgotten = None, forgotten.__context__
    return reason
