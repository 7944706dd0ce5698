"""Directives in Redis, for all workers (spec 7): each with the stamp under which it was fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID  # noqa: TC003 - msgspec reads the annotations when the program runs

import msgspec

from ibex.adapters.redis.keys import directive_key
from ibex.domain.directives import Directive, InjectionMode
from ibex.domain.shared_directives import SharedDirective

if TYPE_CHECKING:
    from ibex.adapters.redis.link import RedisLink
    from ibex.domain.freshness import Stamp


class _Directive(msgspec.Struct, frozen=True):
    version_id: UUID
    version: int
    mode: str
    text: str
    sha256: str


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    lease: str
    generation: str
    directive: _Directive | None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Kept)


class RedisSharedDirectives:
    """A ``SharedDirectives``. Redis is asked within its bound, and passed over where it does not answer."""

    def __init__(self, link: RedisLink, ttl_s: float) -> None:
        """Take how long a directive is kept, in seconds; Redis counts in milliseconds."""
        self._link = link
        self._ttl_ms = max(1, int(ttl_s * 1_000))

    async def get(self, org_id: UUID, agent_id: UUID, stamp: Stamp) -> SharedDirective | None:
        """Return what was put under this very stamp; see ``SharedDirectives``."""
        key = directive_key(org_id, agent_id)
        answer, _ = await self._link.ask(("directive", key), lambda _askers, _instance: ("GET", key))
        if answer is None or not isinstance(answer.reply, bytes):
            return None
        try:
            kept = _decoder.decode(answer.reply)
            found = _directive(kept.directive) if kept.directive is not None else None
        except (msgspec.MsgspecError, ValueError):  # another version wrote it
            return None
        same = (kept.lease, kept.generation) == (stamp.lease, stamp.generation)
        return SharedDirective(found) if same else None

    async def put(self, org_id: UUID, agent_id: UUID, stamp: Stamp, shared: SharedDirective) -> None:
        """Keep it for the others."""
        value = _encoder.encode(_Kept(stamp.lease, stamp.generation, _kept(shared.directive)))
        key = directive_key(org_id, agent_id)
        await self._link.ask(
            ("put directive", key, value), lambda _askers, _instance: ("SET", key, value, "PX", self._ttl_ms)
        )


def _kept(own: Directive | None) -> _Directive | None:
    return _Directive(own.version_id, own.version, own.mode.value, own.text, own.sha256) if own is not None else None


def _directive(kept: _Directive) -> Directive:
    return Directive(kept.version_id, kept.version, InjectionMode(kept.mode), kept.text, kept.sha256)
