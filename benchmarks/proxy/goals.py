"""The eight goals, each with its target and the figure that a run reached."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from benchmarks.proxy.stages import NOT_RUN, spoken, target_us
from benchmarks.proxy.targets import DIRECT, LITELLM, NGINX, PORTKEY, ibex_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Goal = dict[str, Any]
    Results = Mapping[str, Any]


def goals_of(results: Results) -> list[Goal]:
    """Return goals with ``number, what, target, reached, met, note``; ``met`` is None if it was not measured."""
    makers: tuple[Callable[[Results], Iterator[Goal]], ...] = (
        _closed,
        _per_worker,
        _paced,
        _streams,
        _bytes,
        _memory,
        _starts,
        _stages,
    )
    return [goal for maker in makers for goal in maker(results)]


def median(runs: Sequence[Mapping[str, Any]], key: str) -> float:
    """Return the median of the rounds; NaN if none measured a value."""
    values = [run[key] for run in runs if run.get(key) is not None]
    return statistics.median(values) if values else float("nan")


def _goal(number: int, what: str, target: str, reached: str, *, met: bool | None, note: str = "") -> Goal:
    return {"number": number, "what": what, "target": target, "reached": reached, "met": met, "note": note}


def _at_most(number: int, what: str, reached: float, most: str, note: str = "") -> Goal:
    """Return a goal whose target is a maximum with its unit."""
    figure, unit = most.split(" ", 1)
    if reached < 0:  # the difference of two measurements, which shows only their distance
        met = True if -reached <= float(figure) else None
        return _goal(number, what, f"≤ {most}", "within noise", met=met, note=note)
    digits = 0 if reached >= 100 else 1 if reached >= 10 else 2  # noqa: PLR2004 - three that count
    return _goal(number, what, f"≤ {most}", f"{reached:.{digits}f} {unit}", met=reached <= float(figure), note=note)


def _at_least(number: int, what: str, reached: float, least: str, note: str = "") -> Goal:
    figure, unit = least.split(" ", 1)
    told = f"{reached:,.0f}" if reached >= 100 else f"{reached:.2f}"  # noqa: PLR2004 - three that count
    return _goal(
        number, what, f"≥ {float(figure):,g} {unit}", f"{told} {unit}", met=reached >= float(figure), note=note
    )


def _closed(results: Results) -> Iterator[Goal]:
    runs = results.get("closed", {}).get("runs", {}).get(ibex_name(2))
    if not runs:
        return
    rate, p50, p99 = (median(runs, key) for key in ("rate", "p50_ms", "p99_ms"))
    failed = sum(run["failed"] for run in runs)
    what = f"{results['connections']} connections that never wait, 2 workers"
    note = f"the target is for 4 cores; this machine has {results['closed']['cores']} for everything"
    yield _at_least(1, f"{what}: rate", rate, "10000 requests/s", note)
    yield _at_most(1, f"{what}: p99", p99, "20 ms", f"p50 {p50:.1f} ms")
    yield _goal(1, f"{what}: errors", "0", f"{failed}", met=failed == 0)


def _per_worker(results: Results) -> Iterator[Goal]:
    runs = results.get("closed", {}).get("runs", {})
    if ibex_name(1) not in runs:
        return
    own = median(runs[ibex_name(1)], "rate")
    for name, least in ((NGINX, "0.25 ×"), (PORTKEY, "5 ×"), (LITELLM, "80 ×")):
        what = f"the rate of one worker, of {name}'s"
        if name in runs:
            other = median(runs[name], "rate")
            yield _at_least(2, what, own / other, least, f"{own:,.0f}/s beside {other:,.0f}/s")
        else:
            yield _goal(2, what, f"≥ {least}", "not installed", met=None)


def _paced(results: Results) -> Iterator[Goal]:
    runs = results.get("paced", {}).get("runs", {})
    if ibex_name(2) not in runs:
        return
    what = f"a model's pace, {results['paced']['in_flight']} in flight: overhead"
    for label, key, most in (("p50", "p50_ms", "1.5 ms"), ("p99", "p99_ms", "5 ms")):
        reached, floor = median(runs[ibex_name(2)], key), median(runs[DIRECT], key)
        yield _at_most(3, f"{what} {label}", reached, most, f"of it {floor:.2f} ms are there without a proxy")


def _streams(results: Results) -> Iterator[Goal]:
    streams = results.get("streams", {})
    runs = streams.get("runs", {})
    if ibex_name(2) not in runs:
        return
    what = f"{streams['streams']} streams, {streams['events_a_second']} events/s each: added"
    for label, key, most in (
        ("to an event, p50", "p50_ms", "1 ms"),
        ("to an event, p99", "p99_ms", "10 ms"),
        ("to the first byte, p99", "first_p99_ms", "10 ms"),
    ):
        through, floor = median(runs[ibex_name(2)], key), median(runs[DIRECT], key)
        note = f"{through:.2f} ms after the provider wrote it, of it {floor:.2f} ms without a proxy"
        yield _at_most(4, f"{what} {label}", through - floor, most, note)


def _bytes(results: Results) -> Iterator[Goal]:
    runs = results.get("sizes", {}).get("runs", {})
    for size, most in (("1 MB", "5 ms"), ("10 MB", "60 ms")):
        if ibex_name(1) in runs:
            through, floor = (median([run[size] for run in runs[name]], "p50_ms") for name in (ibex_name(1), DIRECT))
            note = f"{through:.1f} ms in all, {floor:.1f} ms without a proxy"
            yield _at_most(5, f"a request of {size}: overhead", through - floor, most, note)
    idle = results.get("idle")
    if idle:
        before, after, afresh = (idle[when]["cpu_us"] for when in ("before", "after", "afresh"))
        what = f"CPU a request with {idle['idle']:,} idle sessions, tokens and agents, of that with none"
        note = f"{after:.0f} µs; before {before:.0f} µs, right afterwards without them {afresh:.0f} µs"
        yield _at_most(5, what, after * 2 / (before + afresh), "1.1 ×", note)


def _memory(results: Results) -> Iterator[Goal]:
    memory, soak = results.get("memory"), results.get("soak")
    if memory:
        what = f"memory of a worker with {memory['streams']:,} open streams"
        yield _at_most(6, what, memory["open_mb"], "150 MB", f"{memory['at_rest_mb']:.0f} MB at rest")
    if soak:
        first, last = soak["slices"][0], soak["slices"][-1]
        failed = sum(one["failed"] for one in soak["slices"])
        what = f"memory of a worker, {soak['minutes']:g} minutes of full load: last slice, of the first"
        note = f"{first['memory_mb']:.0f} MB, then {last['memory_mb']:.0f} MB"
        yield _at_most(6, what, last["memory_mb"] / first["memory_mb"], "1.05 ×", note)
        yield _goal(6, "the same: errors", "0", f"{failed}", met=failed == 0)


def _starts(results: Results) -> Iterator[Goal]:
    starts = results.get("starts")
    if starts:
        for what, key, most in (("embedded, warm", "embedded_s", "5 s"), ("production", "production_s", "2 s")):
            yield _at_most(7, f"start to first answer: {what}", statistics.median(starts[key]), most)


def _stages(results: Results) -> Iterator[Goal]:
    stages = results.get("stages")
    if not stages:
        yield _goal(8, "stages in process", "by stage", "not measured", met=None, note=NOT_RUN)
        return
    for name, told in stages["stages"].items():
        most = target_us(name)
        if most is not None:
            yield _at_most(8, f"stage: {spoken(name)}", told["median_us"], f"{most:g} µs")
