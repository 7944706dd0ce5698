"""Recent responses in Redis, shared by all workers. Each entry is sealed: only a holder of the key can write one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID  # noqa: TC003 - msgspec reads the annotations when the program runs

import msgspec

from ibex.adapters.redis.keys import response_key
from ibex.domain.directives.seal import Rejection
from ibex.domain.record.received_responses import ReceivedResponse, SharedCacheError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ibex.adapters.redis.link import RedisLink
    from ibex.domain.clock import Clock
    from ibex.domain.directives.seal import Seal

PURPOSE: Final = b"received responses 1"
"""The purpose from which the seal's key is derived."""
TTL_S: Final = 3_600
"""How long Redis keeps a response, in seconds. It is on record much sooner, unless PostgreSQL is down."""


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    agent_id: UUID
    session_handle: str
    provider: str
    directive_version_id: UUID | None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Entry)


class RedisSharedResponses:
    """A ``SharedResponses``. An attacker with write access to Redis can remove entries, but cannot forge one."""

    def __init__(
        self, link: RedisLink, clock: Clock, seal: Seal, on_unverified: Callable[[], None] = lambda: None
    ) -> None:
        """Set the link and the seal. ``on_unverified`` is called for each entry whose seal does not verify."""
        self._link = link
        self._clock = clock
        self._seal = seal
        self._on_unverified = on_unverified

    async def get(self, org_id: UUID, response_id: str) -> ReceivedResponse | None:
        """Return the response, or None if it is missing; see ``SharedResponses``."""
        key = response_key(org_id, response_id)
        answer, _ = await self._link.execute(org_id, ("response", key), lambda _: ("GET", key))
        if answer is None or not isinstance(answer.reply, bytes | None):
            raise SharedCacheError
        if answer.reply is None:
            return None
        value = self._seal.open(org_id, org_id, response_id, self._now_ms(), TTL_S * 1_000, answer.reply)
        if isinstance(value, Rejection):
            if value is Rejection.UNVERIFIED:
                self._on_unverified()
            return None
        try:
            entry = _decoder.decode(value)
        except msgspec.MsgspecError:  # another version of IBEX wrote it
            return None
        return ReceivedResponse(
            response_id, org_id, entry.agent_id, entry.session_handle, entry.provider, entry.directive_version_id
        )

    async def put(self, response: ReceivedResponse) -> None:
        """Store a response for all workers; see ``SharedResponses``."""
        entry = _Entry(response.agent_id, response.session_handle, response.provider, response.directive_version_id)
        org_id = response.org_id
        sealed = self._seal.close(org_id, org_id, response.id, self._now_ms(), _encoder.encode(entry))
        key = response_key(org_id, response.id)
        command = ("SET", key, sealed, "EX", TTL_S)
        await self._link.execute(org_id, ("put response", key), lambda _: command)

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1_000)
