"""The twelve numbers to reach, each with its goal and the figure of a run; and additional limits."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from benchmarks.proxy.gateways import LITELLM, NGINX, PORTKEY
from benchmarks.proxy.stages import NOT_RUN, spoken, target_us
from benchmarks.proxy.switches import total
from benchmarks.proxy.targets import DIRECT, ibex_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Goal = dict[str, Any]
    Results = Mapping[str, Any]

NOT_MEASURED: Final = "not measured in this run"
BESIDES: Final = "+"
"""The number of a limit that is not one of the twelve."""
_SOAK_MINUTES: Final = 10
_STREAMS: Final = 500
_OPEN_STREAMS: Final = 1_000


class Figure(NamedTuple):
    """A value, and a note on how it came about; ``is_partial`` if the run asked for less than the goal does."""

    value: float
    note: str = ""
    is_partial: bool = False


@dataclass(frozen=True, slots=True)
class _Goal:
    number: str
    what: str
    limit: float
    unit: str
    figure: Callable[[Results], Figure | None]
    is_minimum: bool = False
    is_difference: bool = False


def goals_of(results: Results) -> list[Goal]:
    """Return goals with ``number, what, goal, now, reached, note``.

    ``reached`` is None if nothing was measured, or less than the goal asks for was within its limit.
    """
    return [_judged(goal, results) for goal in _GOALS] + list(_stages(results))


def median(runs: Sequence[Mapping[str, Any]], key: str) -> float:
    """Return the median of the rounds; NaN if none measured a value."""
    values = [run[key] for run in runs if run.get(key) is not None]
    return statistics.median(values) if values else float("nan")


def ratio(runs: Mapping[str, Sequence[Mapping[str, Any]]], name: str, other: str, key: str) -> float | None:
    """Return the median of one target as a multiple of another's in the same run; None if one was not measured."""
    if name not in runs or other not in runs:
        return None
    own, beside = median(runs[name], key), median(runs[other], key)
    return own / beside if beside > 0 else None


def _judged(goal: _Goal, results: Results) -> Goal:
    sign = "≥" if goal.is_minimum else "≤"
    told = {"number": goal.number, "what": goal.what, "goal": f"{sign} {goal.limit:g} {goal.unit}".rstrip()}
    figure = goal.figure(results)
    if figure is None:
        return {**told, "now": NOT_MEASURED, "reached": None, "note": ""}
    value, note, is_partial = figure
    if goal.is_difference and value < 0:  # shows only the distance of the two measurements
        return {**told, "now": "within noise", "reached": True if -value <= goal.limit else None, "note": note}
    within = value >= goal.limit if goal.is_minimum else value <= goal.limit
    reached = None if within and is_partial else within
    digits = 0 if value >= 100 or isinstance(value, int) else 1 if value >= 10 else 2  # noqa: PLR2004 - three that count
    return {**told, "now": f"{value:,.{digits}f} {goal.unit}".rstrip(), "reached": reached, "note": note}


def _of_nginx(section: str, key: str, unit: str) -> Callable[[Results], Figure | None]:
    def figure(results: Results) -> Figure | None:
        runs = results.get(section, {}).get("runs", {})
        times = ratio(runs, ibex_name(2), NGINX, key)
        if times is None:
            return None
        own, beside = median(runs[ibex_name(2)], key), median(runs[NGINX], key)
        return Figure(times, f"{own:,.2f} {unit} beside nginx's {beside:,.2f}")

    return figure


def _rate_of(peer: str) -> Callable[[Results], Figure | None]:
    def figure(results: Results) -> Figure | None:
        runs = results.get("closed", {}).get("runs", {})
        times = ratio(runs, ibex_name(1), peer, "rate")
        if times is None:
            return None
        own, beside = median(runs[ibex_name(1)], "rate"), median(runs[peer], "rate")
        return Figure(times, f"{own:,.0f}/s beside {beside:,.0f}/s")

    return figure


def _delay(key: str) -> Callable[[Results], Figure | None]:
    def figure(results: Results) -> Figure | None:
        streams = results.get("streams") or {}
        runs = streams.get("runs", {})
        if ibex_name(2) not in runs or DIRECT not in runs:
            return None
        through, floor = median(runs[ibex_name(2)], key), median(runs[DIRECT], key)
        count = streams["streams"]
        note = f"{count} streams: {through:.2f} ms, without a proxy {floor:.2f} ms"
        return Figure(through - floor, note, is_partial=count < _STREAMS)

    return figure


def _size(size: str) -> Callable[[Results], Figure | None]:
    def figure(results: Results) -> Figure | None:
        runs = (results.get("sizes") or {}).get("runs", {})
        if ibex_name(1) not in runs or DIRECT not in runs:
            return None
        through, floor = (median([run[size] for run in runs[name]], "p50_ms") for name in (ibex_name(1), DIRECT))
        return Figure(through - floor, f"p50, {through:.1f} ms in all, {floor:.1f} ms without a proxy")

    return figure


def _open_memory(results: Results) -> Figure | None:
    memory = results.get("memory")
    if not memory:
        return None
    note = f"{memory['streams']:,} streams; {memory['at_rest_mb']:.0f} MB at rest"
    return Figure(memory["open_mb"], note, is_partial=memory["streams"] < _OPEN_STREAMS)


def _growth(results: Results) -> Figure | None:
    soak = results.get("soak")
    if not soak:
        return None
    first, last = soak["slices"][0], soak["slices"][-1]
    note = f"{first['memory_mb']:.0f} MB, then {last['memory_mb']:.0f} MB"
    is_partial = soak["minutes"] < _SOAK_MINUTES
    if is_partial:
        note += f", but in {soak['minutes']:g} minutes: --soak-minutes {_SOAK_MINUTES} measures the goal"
    return Figure(last["memory_mb"] / first["memory_mb"], note, is_partial=is_partial)


def _start(key: str) -> Callable[[Results], Figure | None]:
    def figure(results: Results) -> Figure | None:
        starts = results.get("starts")
        return Figure(statistics.median(starts[key])) if starts else None

    return figure


def _trace(results: Results) -> Figure | None:
    fresh = results.get("freshness")
    return Figure(fresh["trace_ms"], fresh["trace_note"]) if fresh and fresh["trace_ms"] is not None else None


def _next_requests(key: str) -> Callable[[Results], Figure | None]:
    def figure(results: Results) -> Figure | None:
        fresh = results.get("freshness")
        return Figure(fresh[key], f"of {fresh['requests']}, after {fresh['changes']} changes") if fresh else None

    return figure


def _behind(results: Results) -> Figure | None:
    found = results.get("organizations")
    if not found:
        return None
    return Figure(found["worst_s"], f"the worst of {found['turns']:,} turns; median {found['median_s']:.2f} s")


def _switches(results: Results) -> Figure | None:
    found = results.get("switches")
    if not found:
        return None
    return Figure(total(found["per_request"]), f"all threads of the workers, at {found['a_second']:.0f}/s")


def _errors(section: str) -> Callable[[Results], Figure | None]:
    def figure(results: Results) -> Figure | None:
        found = results.get(section) or {}
        runs = found.get("slices") or found.get("runs", {}).get(ibex_name(2))
        return Figure(sum(run["failed"] for run in runs)) if runs else None

    return figure


def _idle(results: Results) -> Figure | None:
    idle = results.get("idle")
    if not idle:
        return None
    before, after, afresh = (idle[when]["cpu_us"] for when in ("before", "after", "afresh"))
    note = (
        f"{idle['idle']:,} idle: {after:.0f} µs; before {before:.0f} µs, right afterwards without them {afresh:.0f} µs"
    )
    return Figure(after * 2 / (before + afresh), note)


def _stages(results: Results) -> Iterator[Goal]:
    stages = results.get("stages")
    told = (stages or {}).get("stages", {})
    if not stages:
        note = NOT_RUN if "stages" in results else ""
        what = {"number": BESIDES, "what": "stages in process", "goal": "by stage"}
        yield {**what, "now": NOT_MEASURED, "reached": None, "note": note}
    for name, figures in told.items():
        most = target_us(name)
        if most is not None:
            yield _judged(_Goal(BESIDES, f"stage: {spoken(name)}", most, "µs", _stage(figures["median_us"])), results)


def _stage(median_us: float) -> Callable[[Results], Figure | None]:
    return lambda _: Figure(median_us)


_PACED: Final = "paced 400/s: {}, as a multiple of nginx's"
_GOALS: Final = (
    _Goal("1", _PACED.format("overhead p50"), 3, "×", _of_nginx("paced", "p50_ms", "ms")),
    _Goal("2", _PACED.format("overhead p99"), 2, "×", _of_nginx("paced", "p99_ms", "ms")),
    _Goal("3", _PACED.format("CPU per request"), 7, "×", _of_nginx("paced", "cpu_us", "µs")),
    _Goal(
        "4",
        "closed loop: CPU per request, as a multiple of nginx's",
        10,
        "×",
        _of_nginx("closed", "cpu_us", "µs"),
    ),
    _Goal("5", "closed loop, one worker: rate, as a multiple of Portkey's", 5, "×", _rate_of(PORTKEY), is_minimum=True),
    _Goal(
        "5", "closed loop, one worker: rate, as a multiple of LiteLLM's", 60, "×", _rate_of(LITELLM), is_minimum=True
    ),
    _Goal("6", "streams: delay added to an event, p50", 0.5, "ms", _delay("p50_ms"), is_difference=True),
    _Goal("6", "streams: delay added to an event, p99", 5, "ms", _delay("p99_ms"), is_difference=True),
    _Goal("6", "streams: delay added to the first event, p99", 5, "ms", _delay("first_p99_ms"), is_difference=True),
    _Goal("7", "a request of 1 MB: added", 3, "ms", _size("1 MB"), is_difference=True),
    _Goal("7", "a request of 10 MB: added", 25, "ms", _size("10 MB"), is_difference=True),
    _Goal("8", "memory of a worker with 1,000 open streams", 130, "MB", _open_memory),
    _Goal("8", "memory of a worker after ten minutes of full load, of that at first", 1.05, "×", _growth),
    _Goal("9", "start to first answer: embedded, warm folder", 1.7, "s", _start("embedded_s")),
    _Goal("9", "start to first answer: production", 1.0, "s", _start("production_s")),
    _Goal("10", "a trace is visible after its response: the worst", 260, "ms", _trace),
    _Goal("10", "next requests with the old directive", 0, "", _next_requests("old_directive")),
    _Goal("10", "next requests served with a revoked token", 0, "", _next_requests("served_revoked")),
    _Goal("11", "500 organizations, 2,000 turns/s: checkpoints behind", 1, "s", _behind),
    _Goal("12", "context switches per request at 400/s", 6, "", _switches),
    _Goal(BESIDES, "closed loop, 2 workers: errors", 0, "", _errors("closed")),
    _Goal(BESIDES, "full load, 2 workers: errors", 0, "", _errors("soak")),
    _Goal(BESIDES, "CPU per request with idle sessions, tokens and agents, of that with none", 1.1, "×", _idle),
)
