"""Goal 11: checkpoints of many organizations at a fixed rate, and how far behind the session store is."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, Final

from benchmarks.proxy.turns import say
from benchmarks.record_organizations import append_for_organizations

if TYPE_CHECKING:
    from benchmarks.proxy.options import Options
    from benchmarks.proxy.targets import Scene

ORGANIZATIONS: Final = 500
TURNS_A_SECOND: Final = 2_000.0
_WRITERS: Final = 2


def measure_organizations(scene: Scene, options: Options) -> dict[str, Any]:
    """Return the delay of a turn from its arrival until its batch is appended, in seconds: median and worst."""
    seconds = options.seconds * 2
    server = scene.stack.postgres.server
    appended = append_for_organizations(server, ORGANIZATIONS, _WRITERS, TURNS_A_SECOND, seconds)
    found = {
        "organizations": ORGANIZATIONS,
        "a_second": TURNS_A_SECOND,
        "seconds": seconds,
        "turns": len(appended.delays),
        "median_s": statistics.median(appended.delays),
        "worst_s": max(appended.delays),
        "drained_s": appended.drained,
    }
    say(
        f"{ORGANIZATIONS} organizations, {TURNS_A_SECOND:,.0f} turns/s: checkpoints behind by median"
        f" {found['median_s']:.2f} s, worst {found['worst_s']:.2f} s"
    )
    return found
