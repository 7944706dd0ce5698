"""Charts as SVG, without dependencies: inline in a page that has ``STYLE``, or ``standalone`` as a file.

The class of a mark is that of its series (``s0`` to ``s9``, by ``style_of``); the style gives the classes their
colours, light and dark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Points = Sequence[tuple[float, float]]

WIDTH: Final = 760
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 14, 44
_BAR, _GAP = 22, 10
_LETTER: Final = 6.6
_STYLES: Final = (
    "provider",
    "nginx",
    "Portkey",
    "LiteLLM",
    "IBEX, 1",
    "IBEX, 2",
    "IBEX, 3",
    "IBEX, 4",
    "Envoy",
    "Ferro",
)
_SHADES: Final = 8
STYLE: Final = (
    """
:root { --card:#fff; --ink:#22252a; --soft:#6b7178; --rule:#e4e2dd; --s0:#a9afb6; --s1:#5f6b76; --s2:#1c7ed6;
  --s3:#9c36b5; --s4:#d9480f; --s5:#e8890c; --s6:#b5860b; --s7:#7a5c00; --s8:#0c8599; --s9:#c2255c; --p0:#d9480f;
  --p1:#0ca678; --p2:#1c7ed6; --p3:#c2255c; --p4:#e0a800; --p5:#a9afb6; --p6:#5f6b76; --p7:#dcdad4 }
@media (prefers-color-scheme: dark) { :root { --card:#1e2125; --ink:#e6e4df; --soft:#9aa0a6; --rule:#33373c;
  --s0:#6b7178; --s1:#adb5bd; --s2:#4dabf7; --s3:#da77f2; --s4:#ff7a33; --s5:#ffb03b; --s6:#e0c060; --s7:#c9a227;
  --s8:#3bc9db; --s9:#f783ac; --p7:#3a3f45 } }
.grid { stroke:var(--rule); stroke-width:1 } .tick { fill:var(--soft); font-size:11px }
.label { fill:var(--ink); font-size:12px } .value { fill:var(--soft); font-size:12px } .name { font-size:12px }
.line { fill:none; stroke-width:2.2; stroke-linejoin:round } .lead { fill:none; stroke-width:.7; opacity:.6 }
.line.s0 { stroke-dasharray:5 4 } .limit { stroke:var(--ink); stroke-dasharray:3 3; opacity:.5 }
"""
    + "\n".join(
        f".line.s{n}, .lead.s{n} {{ stroke:var(--s{n}) }} .dot.s{n}, .bar.s{n}, .name.s{n} {{ fill:var(--s{n}) }}"
        for n in range(len(_STYLES))
    )
    + "\n"
    + "\n".join(f".bar.p{n} {{ fill:var(--p{n}) }}" for n in range(_SHADES))
    + "\n"
)
"""The colours of all charts, light and dark."""
_LIKE: Final = {"in proportion": "s0", "IBEX": "s4"}


def style_of(name: str) -> str:
    """Return the class of a series: the same for a target in every chart."""
    found = next((f"s{number}" for number, start in enumerate(_STYLES) if name.startswith(start)), None)
    return found or _LIKE.get(name, "s4")


@dataclass(frozen=True, slots=True)
class Axis:
    """The scale of an axis: ``place`` maps a value to 0 to 1; ``ticks`` are values with their labels."""

    place: Callable[[float], float]
    ticks: Sequence[tuple[float, str]]
    title: str


def linear(values: Sequence[float], title: str, form: str = "{:,g}") -> Axis:
    """Return an axis from zero to a round value beyond all of these."""
    most = max([*values, 1e-9])
    step = 10 ** math.floor(math.log10(most))
    step = next(step * part for part in (0.2, 0.5, 1, 2) if most / (step * part) <= 6)  # noqa: PLR2004 - ticks that fit
    top = math.ceil(most / step) * step
    ticks = [(step * number, form.format(round(step * number, 9))) for number in range(round(top / step) + 1)]
    return Axis(lambda value: value / top, ticks, title)


def logarithmic(values: Sequence[float], title: str) -> Axis:
    """Return an axis over the decades of values above zero, in milliseconds."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    high = max(high, low + 1)
    ticks = [(10.0**power, f"{10.0**power:,g}") for power in range(low, high + 1)]
    return Axis(lambda value: (math.log10(max(value, 10.0**low)) - low) / (high - low), ticks, title)


def percentiles(last: float) -> Axis:
    """Return an axis on which each further nine takes the same space, up to the given percentile."""
    shown = [(0.0, "0"), (50.0, "50"), (90.0, "90"), (99.0, "99"), (99.9, "99.9"), (99.99, "99.99")]
    nines = math.log10(100 / (100 - last))
    ticks = [(value, text) for value, text in shown if value <= last + 1e-9]
    return Axis(lambda value: math.log10(100 / (100 - value)) / nines, ticks, "percentile")


def standalone(chart: str) -> str:
    """Return a chart as a file of its own, on a card, so that it is readable on a page of either colour scheme."""
    attributes, _, content = chart.removeprefix("<svg ").partition(">")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {attributes}>\n'
        f"<style>{STYLE}svg {{ font-family:system-ui, sans-serif }} .card {{ fill:var(--card) }}</style>\n"
        '<rect class="card" width="100%" height="100%" rx="10"/>' + content.replace("><", ">\n<") + "\n"
    )


def lines(series: Mapping[str, Points], x: Axis, y: Axis, *, height: int = 300, marks: bool = False) -> str:
    """Return a chart with one line per series, named at its end."""
    right, bottom = WIDTH - _RIGHT, height - _BOTTOM

    def at(point: tuple[float, float]) -> tuple[float, float]:
        across, up = x.place(point[0]), y.place(point[1])
        return _LEFT + across * (right - _LEFT), bottom - up * (bottom - _TOP)

    parts = [_frame(x, y, height)]
    ends = []
    for name, points in series.items():
        if not points:
            continue
        placed = [at(point) for point in points]
        path = " ".join(f"{across:.1f},{up:.1f}" for across, up in placed)
        style = style_of(name)
        parts.append(f'<polyline class="line {style}" points="{path}"/>')
        dots = placed if marks else placed[-1:]
        parts += [f'<circle class="dot {style}" cx="{across:.1f}" cy="{up:.1f}" r="3.2"/>' for across, up in dots]
        ends.append((placed[-1], name, style))
    parts += _names(ends, right, bottom)
    return _svg(parts, height)


def bars(rows: Sequence[tuple[str, float, str]], *, most: float | None = None) -> str:
    """Return horizontal bars: each a name, a value, and a label behind it."""
    height = len(rows) * (_BAR + _GAP) + _GAP
    left, right = 24 + max([18, *(len(name) for name, _, _ in rows)]) * _LETTER, WIDTH - 200
    top = most or max([value for _, value, _ in rows] or [1.0]) or 1.0
    parts = []
    for number, (name, value, text) in enumerate(rows):
        y = _GAP + number * (_BAR + _GAP)
        length = max(1.0, value / top * (right - left))
        middle = y + _BAR / 2 + 4
        parts += [
            f'<text class="label" x="{left - 8}" y="{middle}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="bar {style_of(name)}" x="{left}" y="{y}" width="{length:.1f}" height="{_BAR}" rx="3"/>',
            f'<text class="value" x="{left + length + 8:.1f}" y="{middle}">{escape(text)}</text>',
        ]
    return _svg(parts, height)


def stacked(
    rows: Mapping[str, Mapping[str, float]], unit: str, *, order: Sequence[str] = (), most: float | None = None
) -> str:
    """Return horizontal stacked bars, with a legend in this order. A line at ``most`` marks the limit."""
    there = {group for parts in rows.values() for group in parts}
    groups = [*order, *(group for parts in rows.values() for group in parts if group not in order)]
    groups = [group for group in dict.fromkeys(groups) if group in there]
    left, right, head = 230, WIDTH - 70, 30
    height = head + len(rows) * (_BAR + _GAP) + _GAP
    top = max([sum(parts.values()) for parts in rows.values()] + [most or 0.0]) or 1.0
    drawn = []
    x = 10.0
    for number, group in enumerate(groups):
        drawn += [
            f'<rect class="bar p{_shade(group, number, order)}" x="{x:.0f}" y="4" width="12" height="12" rx="2"/>',
            f'<text class="label" x="{x + 17:.0f}" y="14">{escape(group)}</text>',
        ]
        x += 36 + len(group) * _LETTER
    for number, (name, parts) in enumerate(rows.items()):
        y = head + number * (_BAR + _GAP)
        x = float(left)
        middle = y + _BAR / 2 + 4
        drawn.append(f'<text class="label" x="{left - 8}" y="{middle}" text-anchor="end">{escape(name)}</text>')
        for group, value in parts.items():
            width = value / top * (right - left)
            title = f"<title>{escape(group)}: {value:.3g} {unit}</title>"
            at = _shade(group, groups.index(group), order)
            drawn.append(
                f'<rect class="bar p{at}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}">{title}</rect>'
            )
            x += width
        drawn.append(f'<text class="value" x="{x + 6:.1f}" y="{middle}">{sum(parts.values()):.3g} {unit}</text>')
    if most is not None:
        x = left + most / top * (right - left)
        drawn.append(f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{head - 6}" y2="{height}"/>')
    return _svg(drawn, height)


def _shade(group: str, number: int, order: Sequence[str]) -> int:
    """Return a part's colour: by its place in the common order of the charts, else in this chart's."""
    return order.index(group) if group in order else number % _SHADES


def _frame(x: Axis, y: Axis, height: int) -> str:
    right, bottom = WIDTH - _RIGHT, height - _BOTTOM
    parts = []
    for value, text in x.ticks:
        at = _LEFT + x.place(value) * (right - _LEFT)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
    for value, text in y.ticks:
        at = bottom - y.place(value) * (bottom - _TOP)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
    middle, centre = (_LEFT + right) / 2, (_TOP + bottom) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{height - 8}" text-anchor="middle">{escape(x.title)}</text>')
    turned = f'transform="translate(14 {centre}) rotate(-90)"'
    parts.append(f'<text class="tick" {turned} text-anchor="middle">{escape(y.title)}</text>')
    return "".join(parts)


def _names(ends: Sequence[tuple[tuple[float, float], str, str]], right: float, bottom: float) -> list[str]:
    """Write the series' names at the right, moved apart if lines end close to each other."""
    room = 15.0
    places = sorted(ends, key=lambda end: end[0][1])
    heights: list[float] = []
    for (_, up), _, _ in places:
        heights.append(max(up, heights[-1] + room) if heights else up)
    beyond = max(0.0, heights[-1] - bottom) if heights else 0.0
    texts = []
    for ((across, up), name, style), height in zip(places, heights, strict=True):
        y = height - beyond
        texts.append(f'<path class="lead {style}" d="M{across + 4:.1f},{up:.1f} L{right + 10},{y:.1f}"/>')
        texts.append(f'<text class="name {style}" x="{right + 14}" y="{y + 4:.1f}">{escape(name)}</text>')
    return texts


def _svg(parts: Sequence[str], height: int) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" width="100%">{"".join(parts)}</svg>'
