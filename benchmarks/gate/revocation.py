"""How long a revoked token is served, in normal operation and with Redis cut off from all processes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.gate.verdict import Line, at_most

from harness.revocation import RelayedStack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.gate.scene import Scene

    from harness.revocation import Outcome

_HEALTHY_TRIES: Final = 3
_CUT_TRIES: Final = 2
_BOUND: Final = "5 s"
_REDIS_LINKS: Final = ("proxy-redis", "auth-redis")
# A busy machine must not count as a fault; the bound is the same.
_PATIENCE: Final = {"IBEX_AUTH_TIMEOUT": "0.5"}


def revocations(scene: Scene) -> list[Line]:
    """Start new proxies and auth with a relay in each link, over the existing servers, and revoke tokens."""
    stack = scene.stack
    stack.production.stop()
    stack.postgres.empty()
    with stack.redis.client() as redis:
        redis.flushall()
    with (
        tempfile.TemporaryDirectory(prefix="ibex-gate-") as folder,
        RelayedStack.running(stack.postgres, stack.clickhouse, stack.redis, Path(folder), **_PATIENCE) as relayed,
    ):
        links = [relayed.relays[name] for name in _REDIS_LINKS]

        def cut() -> None:
            for link in links:
                link.cut()

        def heal() -> None:
            for link in links:
                link.heal()

        healthy = [relayed.revoke_under() for _ in range(_HEALTHY_TRIES)]
        without = [relayed.revoke_under(cut, heal) for _ in range(_CUT_TRIES)]
    return [
        judge_revocations("a revoked token is served, healthy", healthy),
        judge_revocations("a revoked token is served, Redis cut", without),
    ]


def judge_revocations(what: str, outcomes: Sequence[Outcome]) -> Line:
    """Return the line for several revocations. Refusing a live token or never refusing the revoked one is a flaw."""
    live = sum((sum(one.live.values()) for one in outcomes), 0)
    refused = sum(one.live.get(401, 0) for one in outcomes)
    flaws = [f"a live token was refused {refused} times"] if refused else []
    flaws += ["it was never refused"] if any(not one.refused.get(401) for one in outcomes) else []
    worst = max((one.served_s for one in outcomes), default=float("nan"))
    note = f"worst of {len(outcomes)}; a live token meanwhile: {live:,} requests, {refused} refused"
    return at_most(what, worst, _BOUND, note=note, flaws=flaws)
