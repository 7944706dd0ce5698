"""The attacks: the attacker, the target, and the requirements of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.attacks import by_tenant, without_token
from benchmarks.attacks.victim import MIX, WITHOUT_STREAMS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from benchmarks.attacks.attacking import Target
    from benchmarks.attacks.tally import Tally

FEW_DESCRIPTORS: Final = 1_024
QUICK_STREAMS: Final = ("--first-s", "0.001", "--give-or-take-s", "0", "--events", "3", "--events-a-second", "1000")
LONG_STREAMS: Final = ("--first-s", "0.001", "--give-or-take-s", "0", "--events", "6000", "--events-a-second", "20")
_LARGE_EVENTS: Final = ("--padding", "60000")
UNLIMITED, OF_600, OF_60 = 0, 600, 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One attack: its name, its function, and its requirements.

    ``rpm`` is the attacker's limit in requests per minute, None for an attacker without a token. ``descriptors`` is the
    limit of open files of auth and of each worker, None for the machine's. ``holds`` tells whether it holds
    connections, so that it is worth waiting for their release.
    """

    name: str
    run: Callable[[Target, Tally], Awaitable[None]]
    rpm: int | None = None
    descriptors: int | None = None
    holds: bool = False
    provider: tuple[str, ...] = QUICK_STREAMS
    mix: tuple[str, ...] = MIX

    @property
    def what(self) -> str:
        """A sentence that describes the attack."""
        text = (self.run.__doc__ or "").strip()
        return text.removesuffix(".") + (f"; {self.descriptors} descriptors" if self.descriptors else "")


def _anybody(name: str, run: Callable[[Target, Tally], Awaitable[None]], descriptors: int | None = None) -> Attack:
    return Attack(name=name, run=run, descriptors=descriptors, holds=True)


ATTACKS: Final = (
    _anybody("trailers", without_token.trailers),
    _anybody("trailers-drip", without_token.trailers_drip),
    _anybody("ops-trailers", without_token.ops_trailers),
    _anybody("ops-trailers-drip", without_token.ops_trailers_drip),
    _anybody("refused-byte", without_token.refused_byte),
    _anybody("refused-byte-1024", without_token.refused_byte, FEW_DESCRIPTORS),
    _anybody("refused-body", without_token.refused_body),
    _anybody("refused-body-1024", without_token.refused_body, FEW_DESCRIPTORS),
    _anybody("idle-1024", without_token.idle, FEW_DESCRIPTORS),
    _anybody("slow-heads-1024", without_token.slow_heads, FEW_DESCRIPTORS),
    _anybody("grpc-silent", without_token.grpc_silent),
    _anybody("grpc-silent-1024", without_token.grpc_silent, FEW_DESCRIPTORS),
    _anybody("grpc-watch", without_token.grpc_watch),
    Attack(name="guessed-secrets", run=without_token.guessed_secrets),
    Attack(name="unknown-tokens", run=without_token.unknown_tokens),
    Attack(name="without-body", run=by_tenant.without_body, rpm=UNLIMITED, holds=True),
    Attack(name="slow-bodies", run=by_tenant.slow_bodies, rpm=UNLIMITED, holds=True),
    Attack(name="held-bodies", run=by_tenant.held_bodies, rpm=UNLIMITED, holds=True),
    Attack(
        name="slow-readers",
        run=by_tenant.slow_readers,
        rpm=UNLIMITED,
        holds=True,
        provider=(*LONG_STREAMS, *_LARGE_EVENTS),
        mix=WITHOUT_STREAMS,
    ),
    Attack(name="random-agents", run=by_tenant.random_agents, rpm=OF_600),
    Attack(name="foreign-paths", run=by_tenant.foreign_paths, rpm=OF_600),
    Attack(name="beyond-limit", run=by_tenant.beyond_limit, rpm=OF_60),
    Attack(name="brackets", run=by_tenant.brackets, rpm=UNLIMITED),
    Attack(name="wrong-bodies", run=by_tenant.wrong_bodies, rpm=UNLIMITED),
)
BY_NAME: Final = {attack.name: attack for attack in ATTACKS}
