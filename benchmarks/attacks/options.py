"""The command line of ``make bench-attacks``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.attacks.catalogue import ATTACKS, BY_NAME

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Times are seconds; ``rate`` is the victim's requests a second."""

    seconds: float = 30.0
    before: float = 10.0
    release: float = 0.0
    rate: float = 40.0
    auth_timeout: float = 0.05
    nice: int = 10
    only: tuple[str, ...] = tuple(BY_NAME)
    source: Path = ROOT
    json: Path | None = None
    markdown: Path | None = None
    list: bool = False


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """Parse the command line."""
    default = Options()
    parser = argparse.ArgumentParser(
        prog="make bench-attacks ARGS=...",
        description="Two organizations and attackers: p99 and failures of the victim, before and during each attack.",
    )
    parser.add_argument("--seconds", type=float, default=default.seconds, help="how long each attack runs (30)")
    parser.add_argument("--before", type=float, default=default.before, help="seconds of the victim alone (10)")
    parser.add_argument(
        "--release", type=float, default=default.release, help="wait so long for a first close of held connections (0)"
    )
    parser.add_argument("--rate", type=float, default=default.rate, help="requests a second of the victim (40)")
    parser.add_argument("--auth-timeout", type=float, default=default.auth_timeout, help="IBEX_AUTH_TIMEOUT (0.05)")
    parser.add_argument("--nice", type=int, default=default.nice, help="by how much attackers yield to others (10)")
    parser.add_argument("--only", nargs="+", choices=list(BY_NAME), default=list(default.only), metavar="NAME")
    parser.add_argument("--source", type=Path, default=ROOT, help="another checkout, whose src and harness are run")
    parser.add_argument("--json", type=Path, help="where the results go, after each attack")
    parser.add_argument("--markdown", type=Path, help="where the tables go besides stdout")
    parser.add_argument("--list", action="store_true", help="list the attacks and stop")
    given = vars(parser.parse_args(arguments))
    return Options(**{**given, "only": tuple(given["only"]), "source": given["source"].resolve()})


def listing() -> str:
    """Return a line for each attack."""
    return "".join(f"{attack.name:20} {attack.what}\n" for attack in ATTACKS)
