"""The figures of ``make bench-stages`` as a table, in microseconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.proxy.stages import spoken, target_us

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HEAD: Final = ("stage", "least", "median", "3rd quartile", "limit", "")
_NOTE: Final = (
    "µs a call. Coroutines are driven by hand, without an event loop; the first line is what an empty one costs."
)


def rows_of(told: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows under ``_HEAD`` for the output of pytest-benchmark, group by group."""
    medians = {one["name"]: one["stats"]["median"] for one in told["benchmarks"]}
    rows = []
    for one in sorted(told["benchmarks"], key=lambda one: one["group"] or ""):  # a stable sort
        name, stats = one["name"], one["stats"]
        most = target_us(name)
        limit = "" if most is None else f"{most:g}"
        verdict = "" if most is None else "within" if stats["median"] * 1e6 <= most else "OVER"
        rows.append((spoken(name), *(_us(stats[of]) for of in ("min", "median", "q3")), limit, verdict))
        less = one["extra_info"].get("less")
        if less in medians:
            rows.append(("  … less the turn", "", _us(stats["median"] - medians[less]), "", "", ""))
    return rows


def table_of(told: Mapping[str, Any]) -> str:
    """Return the table as text; the limit applies to the median."""
    rows = [_HEAD, *rows_of(told)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return "\n".join(["", *(_line(row, widths) for row in rows), "", _NOTE])


def markdown_of(told: Mapping[str, Any]) -> str:
    """Return the table as a page of Markdown, with the date, the commit and the machine."""
    machine, commit = told.get("machine_info", {}), told.get("commit_info", {})
    processor = machine.get("cpu", {}).get("brand_raw", machine.get("machine", ""))
    changed = " with changes" if commit.get("dirty") else ""
    when = f"{told.get('datetime', '')[:10]}, commit {commit.get('id', '')[:12]}{changed}"
    rows = [_HEAD, ("---", *(["--:"] * (len(_HEAD) - 2)), "---"), *rows_of(told)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{when}; {processor}, Python {machine.get('python_version', '')}. {_NOTE}\n\n{table}\n"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = row
    cells = [text.rjust(width) for text, width in zip(others[:-1], widths[1:-1], strict=True)]
    return "  ".join([first.ljust(widths[0]), *cells, others[-1]]).rstrip()


def _us(seconds: float) -> str:
    us = seconds * 1e6
    return f"{us:,.2f}" if us < 100 else f"{us:,.0f}"  # noqa: PLR2004 - three digits that count
