"""The report of a run as one self-contained page: the goals, the curves behind them, and the environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.proxy import svg, tables
from benchmarks.proxy.charts import cost, percentile_curves, singles
from benchmarks.proxy.gateways import FERRO, LITELLM, NGINX, PORTKEY
from benchmarks.proxy.goals import median
from benchmarks.proxy.page import chart, heads, html_table, page, section
from benchmarks.proxy.stages import spoken
from benchmarks.proxy.targets import DIRECT, ibex_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Results = Mapping[str, Any]
    Runs = Mapping[str, Sequence[Mapping[str, Any]]]


_SHORT_US: Final = 100.0


def write_report(path: Path, results: Results) -> Path:
    """Write the page and return its path."""
    makers = {
        "closed": _closed,
        "profile": _profile,
        "paced": _paced,
        "switches": _switches,
        "streams": _streams,
        "sizes": _sizes,
        "soak": _soak,
        "freshness": _freshness,
        "organizations": _organizations,
        "starts": _starts,
    }
    parts = [_top(results)]
    parts += [maker(results) for name, maker in makers.items() if results.get(name)]
    parts += [_stages(results)] if results.get("stages") else []
    parts += [_machine(results), _peers(results), _about(results), _goals(results)]
    path.write_text(page("IBEX: the numbers", parts))
    return path


def _top(results: Results) -> str:
    about = results["about"]
    what = "A quick run: it shows that everything works; its figures are no record. " if results["quick"] else ""
    told = (
        f"{what}{about['date']}, commit {about['commit'][:12]}{about['commit'][40:]},"
        f" {about['processor']}, {about['cores']} cores for everything. {tables.conditions(results)}"
    )
    return f'<h1>IBEX: the numbers</h1><p class="soft">{told}</p>{heads(_facts(results))}'


def _facts(results: Results) -> list[tuple[str, str]]:
    facts = []
    runs: Runs = results.get("closed", {}).get("runs", {})
    own = runs.get(ibex_name(1))
    if own:
        facts.append((f"{median(own, 'rate'):,.0f}/s", "requests of one worker, all features on"))
        facts += [
            (f"{median(own, 'rate') / median(runs[name], 'rate'):.{digits}f} ×", f"of {name}, one worker each")
            for name, digits in ((NGINX, 2), (FERRO, 2), (PORTKEY, 1), (LITELLM, 0))
            if name in runs
        ]
    paced = results.get("paced", {}).get("runs", {}).get(ibex_name(2))
    if paced:
        facts.append((f"{median(paced, 'p99_ms'):.1f} ms", "overhead p99 with a model's pace"))
    return facts


def _goals(results: Results) -> str:
    missing = f" Not installed here: {', '.join(results['missing'])}." if results["missing"] else ""
    missing += f" Could not be measured: {', '.join(results['failed'])}." if results["failed"] else ""
    lead = (
        "Authentication, agents, distributed rate limit, directives, journal, checkpoints in PostgreSQL and traces in"
        " ClickHouse are all on, in everything above; 2 workers where nothing else is said. Ratios are of the same run."
        f" Lines with + are additional limits.{missing}"
    )
    return section("Goals", lead, html_table(tables.goals_table(results), "goals"))


def _peers(results: Results) -> str:
    lead = (
        "Each at its own best documented setting, in front of the same provider. nginx and Envoy only pass bytes on:"
        " they are floors. The others do less than IBEX here: one key or none, no limits across processes, no record."
    )
    return section("How the peers ran", lead, html_table(tables.settings_table(results), "goals"))


def _closed(results: Results) -> str:
    runs: Runs = results["closed"]["runs"]
    beside = singles(runs)
    best = median(runs[ibex_name(1)], "rate")
    rows = [
        (name, median(found, "rate"), f"{median(found, 'rate'):,.0f}/s  ({median(found, 'rate') / best:.2f} × IBEX)")
        for name, found in sorted(beside.items(), key=lambda item: -median(item[1], "rate"))
    ]
    measured = [(float(name.split()[1]), median(found, "rate")) for name, found in runs.items() if "IBEX" in name]
    scaling = {"IBEX": measured, "in proportion": [(count, count * measured[0][1]) for count, _ in measured]}
    steps = max(1.0, measured[-1][0] - 1)
    x = svg.Axis(lambda value: (value - 1) / steps, [(count, f"{count:g}") for count, _ in measured], "workers")
    rates = [rate for points in scaling.values() for _, rate in points]
    return section(
        "As fast as answers come",
        f"{results['connections']} connections, each of which sends its next request at once. The provider answers at"
        f" once. Load generator: {results['closed_loop_by']}. One process each, except in the chart of workers; Ferro's"
        f" process uses all cores. The machine has {results['closed']['cores']} cores for proxy, databases, provider"
        " and load generator together, so absolute figures and scaling depend on the machine as much as on the proxy:"
        " compare ratios and processor time per request.",
        chart("Requests a second, one worker or process", svg.bars(rows)),
        chart("Processor time of the proxy a request", cost(beside)),
        chart("Latency", percentile_curves({name: runs[name] for name in runs if name != DIRECT}, "ms")),
        chart("Requests a second against workers", svg.lines(scaling, x, svg.linear(rates, "requests/s"), marks=True)),
        html_table(tables.closed_table(results)),
    )


def _profile(results: Results) -> str:
    parts: Mapping[str, float] = results["profile"]["parts"]
    runs = results.get("closed", {}).get("runs", {}).get(ibex_name(1))
    cost_us = median(runs, "cpu_us") if runs else None
    rows = [
        (part, share, f"{share:.0%}" + (f", {share * cost_us:,.0f} µs a request" if cost_us else ""))
        for part, share in parts.items()
    ]
    functions = [[name, f"{share:.1%}"] for name, share in results["profile"]["functions"].items()]
    return section(
        "What a request costs, part by part",
        "Where py-spy found one worker under the same load, in whichever thread held the interpreter lock, by the"
        " innermost part of IBEX at work; as shares of the processor time that a request takes undisturbed. What is in"
        " no part of IBEX is the event loop's, or the interpreter's own.",
        svg.bars(rows),
        chart("Functions by time of their own", html_table(tables.Table("", ["", "share"], functions))),
    )


def _paced(results: Results) -> str:
    runs: Runs = results["paced"]["runs"]
    parts = [
        chart("Overhead of a request", percentile_curves(runs, "overhead in ms")),
        html_table(tables.paced_table(results)),
    ]
    stages = tables.stages_of(results)
    if stages:
        typical = {"": {name: p50 for name, (p50, _) in stages.items()}}
        slow = [(name, p99, f"{p99:.2f} ms") for name, (_, p99) in stages.items()]
        parts += [
            chart("Stages of a request, as Server-Timing tells them: p50", svg.stacked(typical, "ms")),
            chart("p99 of each stage (which are not of one request, and do not add up)", svg.bars(slow)),
            html_table(tables.stages_table(results)),
        ]
    return section(
        "At a model's pace",
        "The provider answers after 250 ms ± 100 and says in each answer what it spent on it. Overhead is what the"
        " client saw, from the moment that the request was due, less that, request by request. Requests are due at a"
        f" fixed rate ({results['paced']['in_flight']} in flight), whether or not earlier ones are answered; a peer"
        " that cannot keep up gets half of its own closed-loop rate. Without a proxy the same generator sees what is"
        " drawn as provider alone: that is the floor, and within every figure.",
        *parts,
    )


def _switches(results: Results) -> str:
    lead = "As the kernel counts them for each thread of the workers; a wait that ends with a wake-up is voluntary."
    return section("Context switches", lead, html_table(tables.switches_table(results)))


def _freshness(results: Results) -> str:
    lead = "A change has returned before the next request is sent; each connection had been used before."
    return section("Changes", lead, html_table(tables.freshness_table(results)))


def _organizations(results: Results) -> str:
    lead = "Turns of all organizations arrive in turn at a fixed rate; two writers append them in batches."
    return section("Many organizations", lead, html_table(tables.organizations_table(results)))


def _streams(results: Results) -> str:
    streams = results["streams"]
    return section(
        "Streams",
        f"{streams['events_a_second']} events a second in each stream. Every event holds the time of its writing, so"
        " what it took on its way is known of every single one; without a proxy it is what the machine itself takes.",
        chart(f"{streams['streams']} streams at once: delay of an event", percentile_curves(streams["runs"], "ms")),
        chart(
            f"{streams['streams_with_peers']} streams at once, one worker each: delay of an event",
            percentile_curves(streams["peers"], "ms"),
        ),
        html_table(tables.streams_table(results)),
    )


def _sizes(results: Results) -> str:
    lead = "One at a time on one connection; nearly all of the request is the text of one message."
    return section("Large requests", lead, html_table(tables.sizes_table(results)))


def _soak(results: Results) -> str:
    slices = results["soak"]["slices"]
    megabytes, ms = ([one[key] for one in slices] for key in ("memory_mb", "p99_ms"))
    x = svg.linear([one["until_s"] for one in slices], "seconds")
    memory = {"IBEX, 1 of the workers": [(one["until_s"], one["memory_mb"]) for one in slices]}
    p99 = {"IBEX, 2 workers": [(one["until_s"], one["p99_ms"]) for one in slices]}
    return section(
        "Full load for minutes",
        f"{results['connections']} connections that never wait, 2 workers. Memory is the larger worker's resident set.",
        chart("Memory", svg.lines(memory, x, svg.linear(megabytes, "MB"), height=220, marks=True)),
        chart("p99", svg.lines(p99, x, svg.linear(ms, "ms"), height=220, marks=True)),
        html_table(tables.soak_table(results)),
    )


def _starts(results: Results) -> str:
    lead = "From the command to the first answered completion; in production databases and auth are already there."
    return section("Starts", lead, html_table(tables.starts_table(results)))


def _stages(results: Results) -> str:
    medians = {spoken(name): told["median_us"] for name, told in results["stages"]["stages"].items()}
    short = [(name, us, f"{us:.1f} µs") for name, us in medians.items() if us < _SHORT_US]
    long = [[name, f"{us:,.0f} µs"] for name, us in medians.items() if us >= _SHORT_US]
    table = html_table(tables.Table("", ["larger", "median"], long)) if long else ""
    return section("Stages in process", _of(results["stages"]), svg.bars(short) if short else "", table)


def _of(stages: Mapping[str, Any]) -> str:
    return f"Measured by make bench-stages at {stages['at']}, commit {stages['commit'][:12]}, one after the other."


def _machine(results: Results) -> str:
    uses = tables.machine_uses(results)
    return section(
        "Who used the machine",
        "Cores in use during the measurements above, by who used them; the dotted line is all there are. Others are"
        " what is no part of this benchmark, and the kernel's own work: where that is much, the figures are not to be"
        " trusted.",
        svg.stacked(uses, "cores", order=tables.GROUPS, most=float(results["about"]["cores"])) if uses else "",
    )


def _about(results: Results) -> str:
    about = results["about"]
    rows = [
        ["commit", about["commit"]],
        ["machine", f"{about['processor']}, {about['cores']} cores, {about['memory_gb']} GB, {about['system']}"],
        ["installation", about["installation"]],
        ["load average before", str(about["load_before"])],
        *([name, version] for name, version in about["versions"].items()),
    ]
    lead = "make bench on the same commit makes all of this again; make bench-peers installs the peers."
    return section("Of what these figures are", lead, html_table(tables.Table("", ["", ""], rows)))
