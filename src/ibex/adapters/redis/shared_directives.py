"""Directives in Redis, for all workers: each sealed, under a key that stands for the epoch of its fetch."""

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
    """A ``SharedDirectives``. Redis is asked within its time limit, and passed over where it does not answer.

    Whoever can write to Redis can remove an entry, and cannot make or change one that is used (ADR 0044).
    """

    def __init__(
        self, link: RedisLink, clock: Clock, seal: Seal, ttl_s: float, on_unverified: Callable[[], None] = lambda: None
    ) -> None:
        """Take how long a directive is kept, in seconds, and what is called for each entry that does not verify."""
        self._link = link
        self._clock = clock
        self._seal = seal
        self._ttl_ms = max(1, int(ttl_s * 1_000))
        self._on_unverified = on_unverified

    async def get(self, org_id: UUID, agent_id: UUID, epoch: str) -> SharedDirective | None:
        """Return what was put under this epoch; see ``SharedDirectives``."""
        key = directive_key(org_id, agent_id, self._seal.name(epoch))
        answer, _ = await self._link.ask(org_id, ("directive", key), lambda _: ("GET", key))
        if answer is None or not isinstance(answer.reply, bytes):
            return None
        value = self._seal.open(org_id, agent_id, epoch, self._now_ms(), self._ttl_ms, answer.reply)
        if isinstance(value, Rejection):
            if value is Rejection.UNVERIFIED:
                self._on_unverified()
            return None
        try:
            kept = _decoder.decode(value)
            return SharedDirective(None if kept is None else _directive(kept))
        except (msgspec.MsgspecError, ValueError):  # another version wrote it
            return None

    async def put(self, org_id: UUID, agent_id: UUID, epoch: str, shared: SharedDirective) -> None:
        """Keep it for the others."""
        value = _encoder.encode(_kept(shared.directive))
        sealed = self._seal.close(org_id, agent_id, epoch, self._now_ms(), value)
        key = directive_key(org_id, agent_id, self._seal.name(epoch))
        await self._link.ask(org_id, ("put directive", key, sealed), lambda _: ("SET", key, sealed, "PX", self._ttl_ms))

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1_000)


def _kept(own: Directive | None) -> _Directive | None:
    return _Directive(own.version_id, own.version, own.mode.value, own.text, own.sha256) if own is not None else None


def _directive(kept: _Directive) -> Directive:
    return Directive(kept.version_id, kept.version, InjectionMode(kept.mode), kept.text, kept.sha256)
