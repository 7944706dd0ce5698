"""One redis-py connection that several batches of commands share (a pipeline)."""

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
    """Redis cannot be reached, does not answer in time, or refuses a command. The message contains no key or value."""


class ServerConnection:
    """A connection that is closed, for good, by its first failure.

    Each batch is sent at once, then waits for its turn to read: a redis-py connection has one reader at a time.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        """Wrap a redis-py connection that is not connected yet."""
        self._connection = connection
        self._last: asyncio.Future[None] | None = None
        self._broken = False

    async def open(self) -> None:
        """Connect and authenticate, without a timeout. Raises ``LinkError``."""
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
        """Whether the connection is open and has never failed."""
        return not self._broken and self._connection.is_connected

    async def is_stale(self) -> bool:
        """Return whether the server has closed the idle connection, or has sent bytes that no command asked for."""
        if self._last is not None and not self._last.done():
            return False
        try:
            return await self._connection.can_read()
        except (RedisError, OSError):
            return True

    async def call(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one write and return their replies in order. An error reply is an exception in the list.

        Raises ``LinkError`` if the connection breaks. Cancellation closes the connection, because a late reply would be
        taken for the reply to another command.
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
                    replies.append(refusal.with_traceback(None))  # its frames refer to it: a cycle (ADR 0033)
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
        """Disconnect. Calls in flight fail. Idempotent."""
        self._broken = True
        await self._connection.disconnect(nowait=True)


def refusal_of(reply: ResponseError) -> str:
    """Return an error reply as a reason: only its code, because the rest may quote values."""
    return f"refused ({reply.status_code or str(reply).partition(' ')[0]})"


def _reason(error: Exception) -> str:
    """Return why a connection failed, and drop the tracebacks: their frames refer to the errors (ADR 0033)."""
    cause = error.__context__
    if isinstance(error, AuthenticationError | BusyLoadingError | ResponseError):
        reason = f"refused ({getattr(error, 'status_code', None) or type(error).__name__})"
    elif isinstance(cause, OSError):
        reason = f"cannot connect ({type(cause).__name__})"
    else:
        reason = f"the connection broke ({type(error).__name__})"
    chained: BaseException | None = error
    while chained is not None:
        chained.__traceback__, chained = None, chained.__context__
    return reason
