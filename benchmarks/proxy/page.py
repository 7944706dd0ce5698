"""The report's page: its frame and its style, light and dark, without external resources."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from benchmarks.proxy import svg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.proxy.tables import Table

_STYLE: Final = """
:root { --page:#fbfaf8; --good:#2b8a3e; --bad:#c92a2a }
@media (prefers-color-scheme: dark) { :root { --page:#16181b; --good:#69db7c; --bad:#ff8787 } }
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
svg { display:block; margin:6px 0 }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """Return a whole page."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{svg.STYLE}{_STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
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


def chart(title: str, drawn: str) -> str:
    """Return a chart under its title."""
    return f"<h3>{escape(title)}</h3>{drawn}"


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
