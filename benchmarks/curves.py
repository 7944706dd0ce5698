"""`make curves`: draw the curves of the last `make bench` for the documentation.

Writes a few charts of the report as files to docs/pictures, and the section of docs/figures.md that shows them, with
what they were measured on. It writes nothing if the run lacks one of its measurements.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.proxy import svg, tables
from benchmarks.proxy.charts import cost, percentile_curves, singles
from benchmarks.proxy.gateways import NGINX
from benchmarks.proxy.goals import median, ratio
from benchmarks.proxy.targets import ibex_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.proxy.charts import Runs

ROOT: Final = Path(__file__).parents[1]
MEASURED: Final = Path("benchmarks/results/bench.json")
PICTURES: Final = Path("docs/pictures")
PAGE: Final = Path("docs/figures.md")
BEGIN: Final = "<!-- Made by make curves, until the next comment. -->"
END: Final = "<!-- The end of what make curves makes. -->"
_COLUMNS: Final = 130
_LARGE: Final = 100
_MIDDLE: Final = 10


class CurvesError(Exception):
    """The curves cannot be drawn. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A picture: the runs of IBEX and others in a part of the results, and how to draw them.

    ``figures`` are the keys of a run that the text compares with nginx's, each with its name.
    """

    name: str
    title: str
    part: tuple[str, str]
    own: str
    what: str
    alt: str
    unit: str
    figures: Mapping[str, str]
    draw: Callable[[Runs], str]


_PERCENTILES: Final = {"p50_ms": "p50", "p99_ms": "p99"}
CURVES: Final = (
    Curve(
        "bench-cost",
        "Processor time of a request",
        ("closed", "runs"),
        ibex_name(1),
        "{connections} connections, each of which sends its next request at once; a provider that answers at once; one"
        " worker or process of each target.",
        "Bars: the processor time of a request",
        "µs",
        {"cpu_us": ""},
        lambda runs: cost(singles(runs)),
    ),
    Curve(
        "bench-latency",
        "Latency under full load",
        ("closed", "runs"),
        ibex_name(1),
        "The same load of {connections} connections: most of the latency is time in the queue.",
        "Curves: the latency of a request by percentile",
        "ms",
        _PERCENTILES,
        lambda runs: percentile_curves(singles(runs), "ms"),
    ),
    Curve(
        "bench-overhead",
        "Overhead at a model's pace",
        ("paced", "runs"),
        ibex_name(2),
        "Requests at a fixed rate, about {in_flight} in flight, with 2 workers of IBEX: the time that is not the"
        " provider's. A peer that cannot keep up gets half of its own closed-loop rate.",
        "Curves: the overhead of a request by percentile",
        "ms",
        _PERCENTILES,
        lambda runs: percentile_curves(runs, "overhead in ms"),
    ),
    Curve(
        "bench-streams",
        "Delay of the events of streams",
        ("streams", "peers"),
        ibex_name(1),
        "{streams_with_peers} streams at once, {events_a_second} events a second in each; one worker or process of"
        " each target.",
        "Curves: the delay of an event by percentile",
        "ms",
        _PERCENTILES,
        lambda runs: percentile_curves(runs, "ms"),
    ),
)


def main() -> int:
    """Draw the last run, and return the exit code."""
    try:
        names = write(ROOT)
    except CurvesError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"written: {', '.join(names)}, {PAGE}\n")
    return 0


def write(root: Path) -> list[str]:
    """Write the pictures and the section of the page, and return the paths of the pictures. Raises ``CurvesError``."""
    try:
        results = read(root / MEASURED)
        text = section(results)
        drawn = {f"{PICTURES}/{one.name}.svg": svg.standalone(one.draw(runs_of(results, one))) for one in CURVES}
    except (AttributeError, KeyError, TypeError) as error:
        raise CurvesError(
            f"{MEASURED} is not of this version of make bench ({type(error).__name__}: {error})."
            " Run make bench, then make curves."
        ) from error
    page = with_section(root / PAGE, text)
    (root / PICTURES).mkdir(parents=True, exist_ok=True)
    for name, picture in drawn.items():
        (root / name).write_text(picture, encoding="utf-8")
    (root / PAGE).write_text(page, encoding="utf-8")
    return list(drawn)


def read(path: Path) -> dict[str, Any]:
    """Return the results of a full run that measured IBEX for every curve. Raises ``CurvesError``."""
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CurvesError(f"{MEASURED} does not exist. Run make bench, then make curves.") from None
    except ValueError as error:
        raise CurvesError(f"{MEASURED} is not JSON ({error}). Run make bench, then make curves.") from None
    if results["quick"]:
        raise CurvesError(f"{MEASURED} is of a quick run, whose figures mean nothing. Run make bench without --quick.")
    missing = {curve.part[0] for curve in CURVES if not runs_of(results, curve).get(curve.own)}
    if missing:
        failed = [reason for reason in results["failed"] if reason.partition(":")[0] in missing]
        why = f" Make bench reported: {'; '.join(failed)}." if failed else ""
        raise CurvesError(
            f"{MEASURED} has no measurement of IBEX in: {', '.join(sorted(missing))}.{why}"
            " Run make bench with all sections (without --only), then make curves."
        )
    return results


def runs_of(results: Mapping[str, Any], curve: Curve) -> Runs:
    """Return the runs that a curve shows, by target; none if the part was not measured."""
    part, key = curve.part
    runs: Runs = (results.get(part) or {}).get(key) or {}
    return runs


def section(results: Mapping[str, Any]) -> str:
    """Return the section of the page: the circumstances, then each picture with its text."""
    parts = [_wrapped(_circumstances(results))]
    for curve in CURVES:
        runs = runs_of(results, curve)
        values = {**results, **results[curve.part[0]]}
        alt = f"{curve.alt}. {_alone(curve, runs)}"
        parts += [
            f"### {curve.title}",
            _wrapped(f"{curve.what.format_map(values)} {_alone(curve, runs)}{_beside(curve, runs)}"),
            f"![{alt}](pictures/{curve.name}.svg)",
        ]
    return "\n\n".join(parts)


def with_section(path: Path, text: str) -> str:
    """Return a page with the section between its two comments replaced. Raises ``CurvesError`` without them."""
    try:
        page = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CurvesError(f"{PAGE} does not exist. Restore it from git.") from None
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise CurvesError(f"{PAGE} lacks the comment '{BEGIN if not begin else END}'. Restore it from git.")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def _circumstances(results: Mapping[str, Any]) -> str:
    about = results["about"]
    commit = f"`{about['commit'][:12]}`{about['commit'][40:]}"
    told = (
        f"Measured on {about['date']} by `make bench` at commit {commit}, on {about['cores']} cores for everything:"
        f" {about['installation']}; load generator of the first two pictures: {results['closed_loop_by']}."
        f" {tables.conditions(results)}"
    )
    return told + (f" Not installed: {', '.join(results['missing'])}." if results["missing"] else "")


def _alone(curve: Curve, runs: Runs) -> str:
    """Return the figures of IBEX as a sentence without its end."""
    figures = [
        f"{name} {_short(median(runs[curve.own], key))} {curve.unit}".strip() for key, name in curve.figures.items()
    ]
    return f"{curve.own}: {', '.join(figures)}"


def _beside(curve: Curve, runs: Runs) -> str:
    """Return what multiple of nginx's figures those are, and the end of the sentence."""
    times = [ratio(runs, curve.own, NGINX, key) for key in curve.figures]
    known = [_short(value) for value in times if value is not None]
    return f"; {' and '.join(known)} times nginx's." if known else "; nginx was not measured."


def _short(value: float) -> str:
    return f"{value:,.{0 if value >= _LARGE else 1 if value >= _MIDDLE else 2}f}"


def _wrapped(text: str) -> str:
    return textwrap.fill(re.sub(r"\s+", " ", text), _COLUMNS, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    sys.exit(main())
