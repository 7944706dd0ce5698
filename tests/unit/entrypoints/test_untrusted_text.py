"""Control characters are not printed."""

from __future__ import annotations

import json
import unicodedata

import pytest

from ibex.entrypoints.untrusted_text import sanitize, sanitize_json, sanitize_line

ESC, BEL, CSI, OSC = chr(0x1B), chr(7), chr(0x9B), chr(0x9D)
ATTACKS = {
    "OSC 52, the clipboard": f"{ESC}]52;c;ZXZpbA=={BEL}",
    "OSC of one character": f"{OSC}52;c;ZXZpbA==\x9c",
    "CSI": f"{ESC}[2J{ESC}[1;1H",
    "CSI of one character": f"{CSI}2J",
    "a window's title": f"{ESC}]0;title{ESC}\\",
    "a link": f"{ESC}]8;;http://evil.example{ESC}\\here",
    "the other direction": chr(0x202E) + "txt.exe",
    "isolates": chr(0x2066) + "a" + chr(0x2069) + chr(0x2067),
    "marks": chr(0x200E) + chr(0x200F) + chr(0x61C),
    "line separators": chr(0x2028) + chr(0x2029),
    "back to the line's begin": "ok\rno",
    "backspaces": "no\b\bok",
    "DEL": "\x7f",
    "a lone surrogate": "\ud800",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_control_characters_are_replaced(name: str) -> None:
    """Each is replaced on its own. The result does not depend on how a stream is split."""
    text = ATTACKS[name]
    for shown in (sanitize(text), "".join(map(sanitize, text)), sanitize_line(text)):
        assert len(shown) == len(text)
        assert "\ufffd" in shown
        assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in shown)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "one\n\ttwo\n",
        "na\u00efve \u6f22\u5b57 \U0001f469\u200d\U0001f680",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "5\u00a0\u20ac",
    ],
)
def test_texts_of_all_scripts_are_kept(text: str) -> None:
    """This includes newlines, tabs, joiners and no-break spaces."""
    assert sanitize(text) == text


def test_a_line_contains_no_newline_or_tab() -> None:
    """The cells of a table therefore have no line breaks."""
    assert sanitize_line("a\nb\tc") == "a\ufffdb\ufffdc"
    assert sanitize_line("a b") == "a b"


@pytest.mark.parametrize("name", [name for name in ATTACKS if "surrogate" not in name])
def test_a_json_document_stays_equal(name: str) -> None:
    """Control characters are escaped."""
    document = sanitize_json(json.dumps({"x": ATTACKS[name]}, ensure_ascii=False))
    assert json.loads(document) == {"x": ATTACKS[name]}
    assert document.isprintable()
