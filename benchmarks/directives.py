"""`make bench-directives`: how soon a changed directive is in force, with Redis and while Redis is frozen.

Auth, two proxy workers, PostgreSQL, Redis and a ClickHouse engine on loopback, and eight clients in a closed loop.
``--quick`` makes few tries.
"""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING

from harness.directive_watch import change_under
from harness.revocation import relayed_stack

if TYPE_CHECKING:
    from harness.directive_watch import Change

TRIES = 3 if "--quick" in sys.argv else 50


def main() -> None:
    """Measure and print the figures."""
    with relayed_stack(IBEX_AUTH_TIMEOUT="0.5") as stack:
        change_under(stack)
        _tell("set", [change_under(stack) for _ in range(TRIES)])
        back = [change_under(stack, rollback_to=1 + n % 2) for n in range(TRIES)]
        _tell("rolled back", back)
        frozen = [change_under(stack, stack.redis.pause, stack.redis.resume) for _ in range(TRIES)]
        _tell("set, Redis SIGSTOP", frozen)


def _tell(what: str, changes: list[Change]) -> None:
    first = [change.first_s * 1_000 for change in changes]
    old = [change.old_s * 1_000 for change in changes]
    sys.stdout.write(
        f"{what}, {len(changes)} times: the first request that carries it is answered p50"
        f" {statistics.median(first):.1f} ms,"
        f" worst {max(first):.1f} ms\n  after the change; the last that carries the old one is sent p50"
        f" {statistics.median(old):.0f} ms, worst {max(old):.0f} ms; {sum(sum(c.failed.values()) for c in changes)}"
        " failed\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
