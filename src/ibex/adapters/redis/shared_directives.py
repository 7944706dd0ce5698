"""Directives in Redis, shared by all workers. Each entry is sealed, and its key depends on the epoch of its fetch."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID  # noqa: TC003 - msgspec reads the annotations when the program runs

import msgspec

from ibex.adapters.redis.keys import directive_key
from ibex.domain.directives.model import Directive, InjectionMode
from ibex.domain.directives.seal import Rejection, Seal
from ibex.domain.directives.shared import SharedDirective

if TYPE_CHECKING:
    from collections.abc import Callable

    from ibex.adapters.redis.link import RedisLink
    from ibex.domain.clock import Clock


class _Directive(msgspec.Struct, frozen=True):
    version_id: UUID
    version: int
    mode: str
    text: str
    sha256: str


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[_Directive | None] = msgspec.msgpack.Decoder(_Directive | None)


class RedisSharedDirectives:
    """A ``SharedDirectives``. If Redis does not answer in time, ``get`` returns None, and ``put`` returns as well.

    An attacker with write access to Redis can remove entries, but cannot forge or change one that IBEX uses (ADR 0044).
    """

    def __init__(
        self, link: RedisLink, clock: Clock, seal: Seal, ttl_s: float, on_unverified: Callable[[], None] = lambda: None
    ) -> None:
        """Set how long Redis keeps a directive, in seconds.

        ``on_unverified`` is called for each entry whose seal does not verify.
        """
        self._link = link
        self._clock = clock
        self._seal = seal
        self._ttl_ms = max(1, int(ttl_s * 1_000))
        self._on_unverified = on_unverified

    async def get(self, org_id: UUID, agent_id: UUID, epoch: str) -> SharedDirective | None:
        """Return the entry stored under this epoch, or None if it is missing; see ``SharedDirectives``."""
        key = directive_key(org_id, agent_id, self._seal.name(epoch))
        answer, _ = await self._link.execute(org_id, ("directive", key), lambda _: ("GET", key))
        if answer is None or not isinstance(answer.reply, bytes):
            return None
        value = self._seal.open(org_id, agent_id, epoch, self._now_ms(), self._ttl_ms, answer.reply)
        if isinstance(value, Rejection):
            if value is Rejection.UNVERIFIED:
                self._on_unverified()
            return None
        try:
            decoded = _decoder.decode(value)
            return SharedDirective(None if decoded is None else _directive(decoded))
        except (msgspec.MsgspecError, ValueError):  # another version of IBEX wrote it
            return None

    async def put(self, org_id: UUID, agent_id: UUID, epoch: str, shared: SharedDirective) -> None:
        """Store an entry for all workers; see ``SharedDirectives``."""
        value = _encoder.encode(_encodable(shared.directive))
        sealed = self._seal.close(org_id, agent_id, epoch, self._now_ms(), value)
        key = directive_key(org_id, agent_id, self._seal.name(epoch))
        command = ("SET", key, sealed, "PX", self._ttl_ms)
        await self._link.execute(org_id, ("put directive", key, sealed), lambda _: command)

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1_000)


def _encodable(own: Directive | None) -> _Directive | None:
    return _Directive(own.version_id, own.version, own.mode.value, own.text, own.sha256) if own is not None else None


def _directive(decoded: _Directive) -> Directive:
    return Directive(decoded.version_id, decoded.version, InjectionMode(decoded.mode), decoded.text, decoded.sha256)
