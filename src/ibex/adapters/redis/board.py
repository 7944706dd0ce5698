"""The board in Redis: where auth announces changes and vouches for them (spec 5)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ResponseError

from ibex.adapters.redis.connection import LinkError, ServerConnection, refusal_of
from ibex.adapters.redis.keys import (
    ADD_TOKENS,
    BEGIN_TURN,
    FILTER_KEY,
    FINISH_FILTER,
    GENERATIONS_TTL_S,
    LEASE_KEY,
    MADE_KEY,
    MARK_TTL_S,
    RENEW,
    generations_key,
    mark_key,
    ticket_key,
)
from ibex.adapters.redis.preamble import IDENTIFY, instance_of
from ibex.adapters.redis.sentinel import SentinelPrimary
from ibex.adapters.redis.urls import Address, Topology
from ibex.domain.announce import BoardUnavailableError, Connection
from ibex.domain.freshness import LEASE_S
from ibex.domain.known_tokens import positions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from redis.credentials import CredentialProvider

    from ibex.domain.freshness import Kind
    from ibex.domain.ids import IdSource

TIMEOUT_S: Final = 0.5
_SCRIPTS: Final = tuple(script.text for script in (ADD_TOKENS, BEGIN_TURN, RENEW, FINISH_FILTER))
_TOKENS_A_CALL: Final = 500


class RedisBoard:
    """A ``Board`` over one connection; whatever goes wrong ends it, and the next is another."""

    def __init__(
        self,
        url: str,
        ids: IdSource,
        *,
        timeout_s: float = TIMEOUT_S,
        credential_provider: CredentialProvider | None = None,
    ) -> None:
        """Take seconds for each thing that is asked. Raises ``ValueError`` for a URL that Redis is not reached by."""
        self._address = Address.parse(url, credential_provider)
        self._sentinel = SentinelPrimary(self._address) if self._address.topology is Topology.SENTINEL else None
        self._ids = ids
        self._timeout_s = timeout_s
        self._open: ServerConnection | None = None
        self._number = 0
        self._connecting = asyncio.Lock()

    async def close(self) -> None:
        """Disconnect. The board can be used again."""
        if self._open is not None:
            await self._open.close()
        if self._sentinel is not None:
            await self._sentinel.close()

    async def ping(self) -> None:
        """Return if Redis answers. Raises ``BoardUnavailableError``."""
        await self._run(await self.connection(), [("PING",)])

    async def connection(self) -> Connection:
        """Return the connection; see ``Board``."""
        try:
            async with asyncio.timeout(self._timeout_s), self._connecting:
                if self._open is None or not self._open.is_good:
                    self._open = await self._connected()
                    self._number += 1
                return Connection(self._open.instance, self._number)
        except (LinkError, TimeoutError) as error:
            raise BoardUnavailableError(str(error)) from None

    async def announce(self, connection: Connection, org_id: UUID, kinds: Iterable[Kind]) -> None:
        """Replace generations; see ``Board``."""
        key = generations_key(org_id)
        values = [part for kind in kinds for part in (kind.value, self._fresh_value())]
        await self._run(connection, [("HSET", key, *values), ("EXPIRE", key, GENERATIONS_TTL_S)])

    async def add_tokens(self, connection: Connection, token_ids: Sequence[UUID]) -> bool:
        """Put tokens into the filter; see ``Board``."""
        keys = (MADE_KEY, FILTER_KEY)
        for start in range(0, len(token_ids), _TOKENS_A_CALL):
            some = token_ids[start : start + _TOKENS_A_CALL]
            bits = [bit for token_id in some for bit in positions(token_id)]
            (added,) = await self._run(connection, [ADD_TOKENS.call(keys, connection.instance, *bits)])
            if not added:
                return False
        return True

    async def begin_turn(self, connection: Connection) -> str | None:
        """Take a ticket; see ``Board``."""
        ticket = self._fresh_value()
        keys = (MADE_KEY, FILTER_KEY, ticket_key(ticket))
        (given,) = await self._run(connection, [BEGIN_TURN.call(keys, connection.instance, int(LEASE_S * 1_000))])
        return ticket if given else None

    async def renew(self, connection: Connection, ticket: str) -> bool:
        """Renew the lease; see ``Board``."""
        keys = (MADE_KEY, FILTER_KEY, ticket_key(ticket), LEASE_KEY)
        (renewed,) = await self._run(connection, [RENEW.call(keys, connection.instance)])
        return bool(renewed)

    async def begin_filter(self, connection: Connection) -> str:
        """Leave a mark; see ``Board``."""
        mark = self._fresh_value()
        await self._run(connection, [("SET", mark_key(mark), "", "EX", MARK_TTL_S)])
        return mark

    async def finish_filter(self, connection: Connection, mark: str, content: bytes) -> bool:
        """Make the filter; see ``Board``."""
        keys = (MADE_KEY, FILTER_KEY, mark_key(mark))
        (made,) = await self._run(connection, [FINISH_FILTER.call(keys, connection.instance, mark, content)])
        return bool(made)

    async def _run(self, connection: Connection, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        current = self._open
        if current is None or not current.is_good or connection.number != self._number:
            raise BoardUnavailableError("another connection")
        try:
            async with asyncio.timeout(self._timeout_s):
                replies = await current.call(commands)
        except TimeoutError:
            raise BoardUnavailableError("timeout") from None
        except LinkError as error:
            raise BoardUnavailableError(str(error)) from None
        refused = next((reply for reply in replies if isinstance(reply, ResponseError)), None)
        if refused is not None:
            await current.close()
            raise BoardUnavailableError(refusal_of(refused))
        return replies

    async def _connected(self) -> ServerConnection:
        """Connect, learn which instance it is and make the scripts known to it."""
        if self._address.topology is Topology.CLUSTER:
            raise LinkError("the lease and the filter do not work on a Redis Cluster")
        found = self._address.connection() if self._sentinel is None else await self._sentinel.connection()
        connection = ServerConnection(found)
        await connection.open()
        identity, *loaded = await connection.call([IDENTIFY, *(("SCRIPT", "LOAD", text) for text in _SCRIPTS)])
        connection.instance = instance_of(identity)
        refused = next((reply for reply in (identity, *loaded) if isinstance(reply, ResponseError)), None)
        if refused is not None or not connection.instance:
            await connection.close()
            raise LinkError("the server does not say which instance it is" if refused is None else refusal_of(refused))
        return connection

    def _fresh_value(self) -> str:
        return str(self._ids.uuid7())
