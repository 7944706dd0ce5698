"""The report's page: its frame and its style, light and dark, without external resources."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.proxy.tables import Table

_STYLE: Final = """
:root { --page:#fbfaf8; --card:#fff; --ink:#22252a; --soft:#6b7178; --rule:#e4e2dd; --good:#2b8a3e; --bad:#c92a2a;
  --s0:#a9afb6; --s1:#5f6b76; --s2:#1c7ed6; --s3:#9c36b5; --s4:#d9480f; --s5:#e8890c; --s6:#b5860b; --s7:#7a5c00;
  --s8:#0c8599; --s9:#c2255c;
  --p0:#d9480f; --p1:#0ca678; --p2:#1c7ed6; --p3:#c2255c; --p4:#e0a800; --p5:#a9afb6; --p6:#5f6b76; --p7:#dcdad4; }
@media (prefers-color-scheme: dark) { :root { --page:#16181b; --card:#1e2125; --ink:#e6e4df; --soft:#9aa0a6;
  --rule:#33373c; --good:#69db7c; --bad:#ff8787; --s0:#6b7178; --s1:#adb5bd; --s2:#4dabf7; --s3:#da77f2; --s4:#ff7a33;
  --s5:#ffb03b; --s6:#e0c060; --s7:#c9a227; --s8:#3bc9db; --s9:#f783ac; --p7:#3a3f45; } }
* { box-sizing: border-box }
body { margin:0; background:var(--page); color:var(--ink); font:15px/1.55 system-ui, sans-serif }
main { max-width:1040px; margin:0 auto; padding:40px 24px 80px }
h1 { font-size:30px; margin:0 0 4px; letter-spacing:-.01em }
h2 { font-size:20px; margin:0 0 6px }
h3 { font-size:14px; margin:18px 0 4px }
p { margin:6px 0 12px } .soft { color:var(--soft) } .small { font-size:13px }
section { background:var(--card); border:1px solid var(--rule); border-radius:10px; padding:22px 24px; margin:22px 0 }
.scroll { overflow-x:auto }
table { border-collapse:collapse; width:100%; font-size:13px; font-variant-numeric:tabular-nums; margin-top:10px }
th { text-align:right; font-weight:600; color:var(--soft); border-bottom:1px solid var(--rule); padding:5px 8px }
td { text-align:right; padding:5px 8px; border-bottom:1px solid var(--rule); white-space:nowrap }
th:first-child, td:first-child { text-align:left } tr:last-child td { border-bottom:0 }
.goals td:nth-child(2), .goals td:last-child { text-align:left; white-space:normal }
.goals th:nth-child(2), .goals th:last-child { text-align:left }
.yes { color:var(--good); font-weight:600 } .no { color:var(--bad); font-weight:600 }
.heads { display:flex; flex-wrap:wrap; gap:12px; margin:18px 0 0 }
.head { flex:1 1 150px; border:1px solid var(--rule); border-radius:8px; padding:12px 14px }
.head b { display:block; font-size:23px; letter-spacing:-.01em }
svg { display:block; margin:6px 0; font-family:inherit }
.grid { stroke:var(--rule); stroke-width:1 } .tick { fill:var(--soft); font-size:11px }
.label { fill:var(--ink); font-size:12px } .value { fill:var(--soft); font-size:12px } .name { font-size:12px }
.line { fill:none; stroke-width:2.2; stroke-linejoin:round } .lead { fill:none; stroke-width:.7; opacity:.6 }
.line.s0 { stroke-dasharray:5 4 } .limit { stroke:var(--ink); stroke-dasharray:3 3; opacity:.5 }
"""
_SERIES: Final = "".join(
    f".line.s{n},.lead.s{n}{{stroke:var(--s{n})}}.dot.s{n},.bar.s{n},.name.s{n}{{fill:var(--s{n})}}" for n in range(10)
) + "".join(f".bar.p{n}{{fill:var(--p{n})}}" for n in range(8))


def page(title: str, parts: Sequence[str]) -> str:
    """Return a whole page."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}{_SERIES}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def section(title: str, lead: str, *parts: str) -> str:
    """Return a section; the lead is text, the parts are HTML."""
    return f'<section><h2>{escape(title)}</h2><p class="soft">{escape(lead)}</p>{"".join(parts)}</section>'


def heads(facts: Sequence[tuple[str, str]]) -> str:
    """Return a row of figures, each with its description."""
    cells = "".join(
        f'<div class="head"><b>{escape(figure)}</b><span class="soft small">{escape(what)}</span></div>'
        for figure, what in facts
    )
    return f'<div class="heads">{cells}</div>'


def chart(title: str, svg: str) -> str:
    """Return a chart under its title."""
    return f"<h3>{escape(title)}</h3>{svg}"


def html_table(table: Table, kind: str = "") -> str:
    """Return a table; cells that say whether a goal is met are highlighted."""
    marks = {"yes": ' class="yes"', "NO": ' class="no"'}
    head = "".join(f"<th>{escape(name)}</th>" for name in table.head)
    rows = "".join(
        "<tr>" + "".join(f"<td{marks.get(cell, '')}>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )
