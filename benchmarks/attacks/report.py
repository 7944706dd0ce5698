"""The tables of ``make bench-attacks``, in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown; the first column is text, the others are figures."""
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |\n" for line in lines)


def tables(about: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> str:
    """Return all tables."""
    told = [result for result in results if "error" not in result]
    parts = [
        f"## Attacks on commit {about['commit']}, {about['date']}\n\n{_conditions(about)}\n",
        "### The victim\n\n" + table(_VICTIM, [_victim_row(result) for result in told]),
        "### The attacker: what it got and when the server let go\n\n" + table(_GOT, [_got_row(each) for each in told]),
        "### What was held, at most\n\n" + table(_HELD, [_held_row(result) for result in told]),
        "### What it cost, a second, before → during\n\n" + table(_COST, [_cost_row(result) for result in told]),
    ]
    failed = [f"- {result['name']}: not measured: {result['error']}" for result in results if "error" in result]
    notes = [
        f"- {result['name']}: {note}"
        for result in told
        for note in [*result["notes"], *_failed(result), *_newcomers(result)]
    ]
    if failed or notes:
        parts.append("### Notes\n\n" + "\n".join([*failed, *notes]) + "\n")
    return "\n".join(parts)


def _conditions(about: Mapping[str, Any]) -> str:
    return (
        f"{about['seconds']:g} s of each attack after {about['before']:g} s without one; the victim sends"
        f" {about['rate']:g} requests a second; {about['cores']} cores, load {about['load_before']} before it began;"
        f" IBEX_AUTH_TIMEOUT {about['auth_timeout']:g} s; attackers run with nice {about['nice']}."
    )


def _failed(result: Mapping[str, Any]) -> list[str]:
    error = (result["attacker"] or {}).get("failed")
    return [f"the attack ended early: {error}"] if error else []


def _newcomers(result: Mapping[str, Any]) -> list[str]:
    served, tried = result["newcomers"]["served"], result["newcomers"]["tried"]
    return [] if served == tried else [f"auth served {served} of {tried} new connections, as of a proxy that starts"]


_VICTIM = ("attack", "p50 before, ms", "p50 during", "p99 before", "p99 during", "×", "requests", "failed", "how",
           "healthy after, s", "withstood")  # fmt: skip


def _victim_row(result: Mapping[str, Any]) -> list[object]:
    before, during = result["victim"]["before"], result["victim"]["during"]
    times = during["p99_ms"] / before["p99_ms"] if before["p99_ms"] and during["p99_ms"] else None
    failed_before = f" ({before['failed']} before)" if before["failed"] else ""
    return [
        result["name"],
        number(before["p50_ms"]),
        number(during["p50_ms"]),
        number(before["p99_ms"]),
        number(during["p99_ms"]),
        number(times),
        during["requests"],
        f"{during['failed']}{failed_before}",
        counts(during["failures"]),
        number(result["healthy_after_s"]),
        "yes" if result["withstood"] else "**no**",
    ]


_GOT = ("attack", "connections opened", "not opened", "answers",
        "closed by the server: how many, after s (first to last), by last answer", "open at the end")  # fmt: skip


def _got_row(result: Mapping[str, Any]) -> list[object]:
    tally = result["attacker"]
    if tally is None:
        return [result["name"], "the attacker's process did not tell", *["–"] * 4]
    return [
        result["name"],
        tally["opened"],
        counts(tally["not_opened"]),
        counts(tally["answers"]) + (f", of {tally['sent']} sent" if tally["sent"] and tally["answers"] else ""),
        releases(tally["closed"]) or f"none within {number(result['watched_s'])} s",
        tally["held"],
    ]


def releases(closed: Mapping[str, Mapping[str, float]]) -> str:
    """Return how many connections the server closed and after how many seconds, by the status of the last answer."""
    return ", ".join(
        f"{each['closed']} after {number(each['median_s'])} ({number(each['first_s'])} to {number(each['last_s'])})"
        f" {status}"
        for status, each in closed.items()
    )


_HELD = ("attack", "connections of the attacker", "descriptors of a worker", "of auth", "in flight",
         "memory of the workers, MB (before)", "descriptors left after", "largest request → answer, bytes")  # fmt: skip


def _held_row(result: Mapping[str, Any]) -> list[object]:
    peaks, tally = result["peaks"], result["attacker"] or {}
    sizes = f"{tally['largest_request']} → {tally['largest_answer']}" if tally.get("largest_request") else "–"
    return [
        result["name"],
        tally.get("peak_held", "–"),
        peaks["descriptors"],
        peaks["auth_descriptors"],
        number(peaks["in_flight"]),
        f"{peaks['memory_mb']:.0f} ({result['memory_before_mb']:.0f})",
        result["descriptors_after"],
        sizes,
    ]


_COST = ("attack", "cores of the workers", "of auth", "loop lag ≤, s: proxy", "auth", "gRPC calls", "Redis commands",
         "Postgres transactions", "journal rows", "ClickHouse rows", "of these the attacker's")  # fmt: skip
_COUNTED = ("grpc_calls", "redis_commands", "postgres_transactions", "journal_rows", "clickhouse_rows")


def _cost_row(result: Mapping[str, Any]) -> list[object]:
    before, during, lag = result["rates"]["before"], result["rates"]["during"], result["loop_lag"]
    return [
        result["name"],
        _change(before, during, "workers_cores"),
        _change(before, during, "auth_cores"),
        number(lag["proxy_s"]),
        number(lag["auth_s"]),
        *[_change(before, during, name) for name in _COUNTED],
        number(during["attacker_rows"]),
    ]


def _change(before: Mapping[str, Any], during: Mapping[str, Any], name: str) -> str:
    return f"{number(before[name])} → {number(during[name])}"


def counts(found: Mapping[str, int]) -> str:
    """Return counts by name, the most frequent first; a dash for none."""
    ordered = sorted(found.items(), key=lambda each: -each[1])
    return ", ".join(f"{count} × {name}" for name, count in ordered) or "–"


def number(value: float | None) -> str:
    """Return a figure with three significant digits, or as an integer from 100; a dash if there is none."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - whole figures are enough there
