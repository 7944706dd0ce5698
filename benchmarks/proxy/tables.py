"""The tables of a run, for both the terminal and the report."""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.proxy.gateways import NGINX
from benchmarks.proxy.goals import median, ratio
from benchmarks.proxy.switches import INVOLUNTARY, VOLUNTARY, total
from benchmarks.proxy.targets import DIRECT, ibex_name
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WIDE: Final = 170
_QUIET_CORES: Final = 0.15
OTHERS: Final = "others"
GROUPS: Final = ("proxy", "auth", "PostgreSQL", "Redis", "ClickHouse", "provider", "load generator", OTHERS)
REACHED: Final = {True: "yes", False: "NO", None: "-"}


@dataclass(frozen=True, slots=True)
class Table:
    """A title, names of columns, and rows of text."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def show(tables: Sequence[Table]) -> None:
    """Print tables on the terminal."""
    console = Console(width=None if sys.stdout.isatty() else _WIDE)
    for table in tables:
        shown = RichTable(title=table.title, title_justify="left", title_style="bold")
        for number, name in enumerate(table.head):
            shown.add_column(name, justify="left" if number == 0 else "right")
        for row in table.rows:
            shown.add_row(*map(Text, row))
        console.print(shown)


def all_tables(results: Mapping[str, Any]) -> list[Table]:
    """Return the tables of a run. The goals come last, where they are visible in a terminal."""
    makers = {
        "closed": closed_table,
        "profile": profile_table,
        "paced": paced_table,
        "switches": switches_table,
        "streams": streams_table,
        "sizes": sizes_table,
        "soak": soak_table,
        "freshness": freshness_table,
        "organizations": organizations_table,
        "starts": starts_table,
    }
    return [maker(results) for name, maker in makers.items() if results.get(name)] + [
        machine_table(results),
        settings_table(results),
        goals_table(results),
    ]


def goals_table(results: Mapping[str, Any]) -> Table:
    """Return the table of the twelve numbers to reach, with the additional limits."""
    rows = [
        [goal["number"], goal["what"], goal["goal"], goal["now"], REACHED[goal["reached"]], goal["note"]]
        for goal in results["goals"]
    ]
    caveat = ": a quick run, whose figures are no record" if results["quick"] else ""
    return Table(f"Goals{caveat}", ["no.", "what", "goal", "now", "reached", "note"], rows)


def settings_table(results: Mapping[str, Any]) -> Table:
    """Return the table of how each peer ran."""
    versions = results["about"]["versions"]
    rows = [[name, versions.get(name, ""), settings] for name, settings in results.get("settings", {}).items()]
    return Table("How the peers ran", ["", "version", "settings"], rows)


def closed_table(results: Mapping[str, Any]) -> Table:
    """Return the table of the closed loop: rates, latencies, processor time per request, and their ratios."""
    runs = results["closed"]["runs"]
    rows = [
        [
            name,
            f"{median(found, 'rate'):,.0f}",
            _range(found, "rate", ",.0f"),
            _times(ratio(runs, name, NGINX, "rate")),
            _times(ratio(runs, ibex_name(1), name, "rate")),
            f"{median(found, 'p50_ms'):.2f} ms",
            f"{median(found, 'p99_ms'):.2f} ms",
            _range(found, "p99_ms", ".1f"),
            f"{median(found, 'cpu_us'):,.0f} µs",
            _times(_cpu_ratio(runs, name)),
            f"{median(found, 'memory_mb'):.0f} MB" if median(found, "memory_mb") else "",
            str(sum(one["failed"] for one in found)),
        ]
        for name, found in runs.items()
    ]
    title = f"Closed loop: {results['connections']} connections that never wait, an instant provider"
    head = ["", "requests/s", "range", "of nginx", f"{ibex_name(1)}, of this"]
    head += ["p50", "p99", "range of p99", "CPU a request", "of nginx", "memory", "failed"]
    return Table(title, head, rows)


def profile_table(results: Mapping[str, Any]) -> Table:
    """Return the table of a worker's processor time by part of the program."""
    rows = [[part, f"{share:.1%}"] for part, share in results["profile"]["parts"].items()]
    return Table("A worker's processor time under full load, by part", ["", "share"], rows)


def paced_table(results: Mapping[str, Any]) -> Table:
    """Return the table of the overhead with a provider at a model's pace; nginx's is that of the same run."""
    runs = results["paced"]["runs"]
    rows = [
        [
            name,
            f"{median(found, 'a_second'):.0f}/s",
            f"{median(found, 'p50_ms'):.2f} ms",
            _times(ratio(runs, name, NGINX, "p50_ms")),
            f"{median(found, 'p99_ms'):.2f} ms",
            _times(ratio(runs, name, NGINX, "p99_ms")),
            _range(found, "p99_ms", ".2f"),
            f"{max(one['worst_ms'] for one in found):.1f} ms",
            f"{median(found, 'cpu_us'):,.0f} µs",
            _times(_cpu_ratio(runs, name)),
            f"{median(found, 'late_p99_ms'):.2f} ms",
            str(sum(one["failed"] for one in found)),
        ]
        for name, found in runs.items()
    ]
    title = "A provider with a model's pace, requests at a fixed rate: overhead of each"
    head = ["", "rate", "p50", "of nginx", "p99", "of nginx", "range of p99", "worst", "CPU a request", "of nginx"]
    return Table(title, [*head, "generator late, p99", "failed"], rows)


def switches_table(results: Mapping[str, Any]) -> Table:
    """Return the table of context switches by thread, and of the most frequent system calls, at a fixed rate."""
    found = results["switches"]
    quiet = found["quiet_per_s"]
    kinds = (VOLUNTARY, INVOLUNTARY)
    threads = [
        (name, [told[kind] for kind in kinds], sum(quiet.get(name, {}).values()))
        for name, told in found["per_request"].items()
    ]
    in_all = [sum(counts[at] for _, counts, _ in threads) for at in range(len(kinds))]
    rows = [
        [name, *(f"{count:.2f}" for count in counts), f"{sum(counts):.2f}", f"{idle:.1f}"]
        for name, counts, idle in [*threads, ("all threads", in_all, total(quiet))]
    ]
    if found["calls"] is not None:
        calls = ", ".join(f"{name} {count:.2f}" for name, count in found["calls"].items())
        rows.append([f"system calls: {found['all_calls']:.1f} ({calls})", "", "", "", ""])
    head = ["", "voluntary a request", "involuntary", "in total", "a second without requests"]
    return Table(f"Context switches of the workers at {found['a_second']:.0f} requests a second", head, rows)


def stages_table(results: Mapping[str, Any]) -> Table:
    """Return the table of the Server-Timing stages during the paced load."""
    rows = [[name, f"{p50:.3f} ms", f"{p99:.3f} ms"] for name, (p50, p99) in stages_of(results).items()]
    return Table("Stages of a request, by Server-Timing, paced load", ["", "p50", "p99"], rows)


def stages_of(results: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return p50 and p99 in milliseconds by stage, medians of the rounds; empty if no round has stages."""
    all_runs: Mapping[str, list[Mapping[str, Any]]] = results["paced"]["runs"]
    runs = next((found for name, found in all_runs.items() if name.startswith("IBEX")), [])
    names = [name for run in runs[:1] for name in run.get("stages", {})]
    told = {name: [run["stages"][name] for run in runs if name in run["stages"]] for name in names}
    return {name: (median(ones, "p50_ms"), median(ones, "p99_ms")) for name, ones in told.items()}


def streams_table(results: Mapping[str, Any]) -> Table:
    """Return the table of event delays, with many streams and, for IBEX and its peers, with few.

    What is beyond the same without a proxy stands beside each.
    """
    streams = results["streams"]
    rows = []
    runs: Mapping[str, Any]
    subjects = [(streams["streams"], streams["runs"]), (streams["streams_with_peers"], streams["peers"])]
    for count, runs in subjects:
        for name, found in runs.items():
            figures = []
            for key in ("p50_ms", "p99_ms", "first_p50_ms", "first_p99_ms"):
                delay = median(found, key)
                beyond = f"{delay - median(runs[DIRECT], key):+.2f}" if DIRECT in runs and name != DIRECT else ""
                figures += [f"{delay:.2f} ms", beyond]
            whole = f"{sum(one['whole'] for one in found)} of {sum(one['streams'] for one in found)}"
            rows.append([f"{count} streams: {name}", *figures, whole])
    title = f"Streams of {streams['events_a_second']} events a second: from an event's writing to its receipt"
    head = ["", "event, p50", "beyond", "p99", "beyond", "first event, p50", "beyond", "p99", "beyond", "whole"]
    return Table(title, head, rows)


def sizes_table(results: Mapping[str, Any]) -> Table:
    """Return the table of large requests, one at a time."""
    runs = results["sizes"]["runs"]
    sizes = list(next(iter(runs.values()))[0])
    rows = [
        [name, *(f"{median([run[size] for run in found], 'p50_ms'):.1f} ms" for size in sizes)]
        for name, found in runs.items()
    ]
    return Table("Large requests, one at a time: p50", ["", *sizes], rows)


def soak_table(results: Mapping[str, Any]) -> Table:
    """Return the table of the full load, slice by slice."""
    rows = [
        [
            f"{one['until_s']:.0f} s",
            f"{one['rate']:,.0f}",
            f"{one['p50_ms']:.2f} ms",
            f"{one['p99_ms']:.2f} ms",
            str(one["failed"]),
            f"{one['memory_mb']:.1f} MB",
        ]
        for one in results["soak"]["slices"]
    ]
    drained = f"all was delivered, and the proxy had ended, {results['soak']['drained_s']:.1f} s after"
    title = f"Full load: 2 workers, {results['connections']} connections; {drained}"
    return Table(title, ["until", "requests/s", "p50", "p99", "failed", "memory of a worker"], rows)


def starts_table(results: Mapping[str, Any]) -> Table:
    """Return the table of the times to the first response."""
    starts = results["starts"]
    rows = [["embedded, a new folder", f"{starts['embedded_new_s']:.2f} s", ""]]
    for name, key in (("embedded, an old folder", "embedded_s"), ("production", "production_s")):
        took = sorted(starts[key])
        rows.append([name, f"{statistics.median(took):.2f} s", f"{took[0]:.2f}-{took[-1]:.2f}"])
    return Table("From start to first answer", ["", "median", "range"], rows)


def freshness_table(results: Mapping[str, Any]) -> Table:
    """Return the table of how soon a trace, a directive and a revocation are there."""
    fresh = results["freshness"]
    rows = [
        ["a trace is visible after its response: the worst", f"{fresh['trace_ms']:.0f} ms", fresh["trace_note"]],
        ["next requests with the old directive", str(fresh["old_directive"]), f"of {fresh['requests']}"],
        ["next requests served with a revoked token", str(fresh["served_revoked"]), f"of {fresh['requests']}"],
    ]
    return Table("How soon a change is in force, 2 workers", ["", "", ""], rows)


def organizations_table(results: Mapping[str, Any]) -> Table:
    """Return the table of the checkpoints of many organizations."""
    found = results["organizations"]
    row = [f"{found[key]:.2f} s" for key in ("median_s", "worst_s", "drained_s")]
    title = (
        f"Checkpoints of {found['organizations']} organizations, {found['a_second']:,.0f} turns/s for"
        f" {found['seconds']:g} s: how far behind"
    )
    return Table(title, ["turns", "median", "worst", "all were appended after"], [[f"{found['turns']:,}", *row]])


def machine_table(results: Mapping[str, Any]) -> Table:
    """Return the table of the processor use during the measurements, in cores: 1.00 is one core all the time."""
    uses = machine_uses(results)
    groups = list(GROUPS)
    rows = [
        [name, *(f"{use.get(group, 0):.2f}" if group in use else "" for group in groups)] for name, use in uses.items()
    ]
    return Table("Cores in use during a measurement, by who used them", ["", *groups], rows)


def machine_uses(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return cores by group and measurement. ``others`` are processes outside the benchmark and the kernel."""
    subjects = {
        "closed loop": results.get("closed", {}).get("runs", {}),
        "paced": results.get("paced", {}).get("runs", {}),
        "streams": results.get("streams", {}).get("runs", {}),
    }
    uses: dict[str, dict[str, float]] = {}
    for subject, runs in subjects.items():
        for name, found in runs.items():
            cpus = [run["cpu"] for run in found]
            groups = {_group(group, name): group for group in cpus[0]["groups"]}
            groups = {label: groups[label] for label in GROUPS if label in groups}
            use = {
                label: statistics.median(cpu["groups"][group] / cpu["wall_s"] for cpu in cpus)
                for label, group in groups.items()
            }
            use[OTHERS] = statistics.median(cpu["others"] / cpu["wall_s"] for cpu in cpus)
            uses[f"{subject}: {name}"] = use
    return uses


def disturbance(results: Mapping[str, Any]) -> float:
    """Return the most cores that other processes used during a measurement."""
    return max([use[OTHERS] for use in machine_uses(results).values()], default=0.0)


def conditions(results: Mapping[str, Any]) -> str:
    """Return how many rounds were measured, and whether other processes disturbed them, as sentences."""
    rounds = f"Medians of {results['rounds']} rounds, in turns." if results["rounds"] > 1 else "One round."
    others = disturbance(results)
    if others <= _QUIET_CORES:
        return rounds
    return f"{rounds} Others used up to {others:.1f} cores meanwhile: these figures are not to be trusted."


def _group(group: str, target: str) -> str:
    return "proxy" if group == target or group.startswith("IBEX") else group


def _cpu_ratio(runs: Mapping[str, Any], name: str) -> float | None:
    """Return the processor time of a proxy as a multiple of nginx's; None for the provider, which is none."""
    return None if name == DIRECT else ratio(runs, name, NGINX, "cpu_us")


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} ×"  # noqa: PLR2004 - three that count


def _range(runs: Sequence[Mapping[str, Any]], key: str, form: str) -> str:
    values = sorted(run[key] for run in runs if run.get(key) is not None)
    return f"{values[0]:{form}}-{values[-1]:{form}}" if len(values) > 1 else ""
