"""The extent of the measurements: the full run, or a quick one that only shows that everything works."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

SECTIONS: Final = (
    *("stages", "closed", "profile", "paced", "switches"),
    *("streams", "sizes", "idle", "memory", "soak", "freshness", "organizations", "starts"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Seconds apply to each single measurement; the warm-up is additional."""

    quick: bool = False
    rounds: int = 3
    seconds: float = 5.0
    soak_minutes: float = 1.0
    scaling: tuple[int, ...] = (1, 2, 3, 4)
    connections: int = 100
    in_flight: int = 100
    streams: int = 500
    streams_with_peers: int = 50
    stream_seconds: float = 5.0
    idle: int = 10_000
    open_streams: int = 1_000
    large_tries: int = 20
    changes: int = 20
    starts: int = 3
    peers: bool = True
    only: tuple[str, ...] = SECTIONS
    render: bool = False


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description="The numbers of IBEX beside its peers.")
    parser.add_argument("--quick", action="store_true", help="a little of everything, in three minutes")
    parser.add_argument("--rounds", type=int, help="how many turns each has (3; quick: 1)")
    parser.add_argument("--seconds", type=float, help="of each measurement (5; quick: 2)")
    parser.add_argument("--soak-minutes", type=float, help="of full load (1; quick: 0.2; for the record: 10)")
    parser.add_argument("--only", nargs="*", choices=SECTIONS, help="some sections instead of all")
    parser.add_argument("--without-peers", action="store_true", help="leave out all peers but nginx")
    parser.add_argument("--render", action="store_true", help="measure nothing, write the last run's report anew")
    given = parser.parse_args(arguments)
    options = _QUICK if given.quick else Options()
    changes = {
        name: getattr(given, name) for name in ("rounds", "seconds", "soak_minutes") if getattr(given, name) is not None
    }
    if given.only:
        changes["only"] = tuple(given.only)
    return replace(options, peers=not given.without_peers, render=given.render, **changes)


_QUICK: Final = Options(
    quick=True,
    rounds=1,
    seconds=2.0,
    soak_minutes=0.2,
    scaling=(1, 2, os.cpu_count() or 2) if (os.cpu_count() or 2) > 2 else (1, 2),  # noqa: PLR2004 - always measured
    streams=200,
    streams_with_peers=20,
    stream_seconds=2.0,
    idle=500,
    open_streams=300,
    large_tries=5,
    changes=3,
    starts=1,
)
