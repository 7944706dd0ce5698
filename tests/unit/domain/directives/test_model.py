"""Valid texts of directives, and their reprs."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from ibex.domain.directives.model import MAX_TEXT_BYTES, Directive, InjectionMode, check_text, text_hash

TEXT = 'Say "ä" \\ and\nnothing else.'


def directive_of(mode: InjectionMode, text: str = TEXT) -> Directive:
    """Return a directive."""
    return Directive(UUID(int=1), 7, mode, text, text_hash(text))


@pytest.mark.parametrize("text", ["a", "ä" * (MAX_TEXT_BYTES // 2), "a" * MAX_TEXT_BYTES, "\n", "😀"])
def test_a_directive_may_have_1_to_32768_bytes(text: str) -> None:
    """Counted in UTF-8, including both bounds."""
    assert check_text(text) is text


@pytest.mark.parametrize("text", ["", "a" * (MAX_TEXT_BYTES + 1), "ä" * (MAX_TEXT_BYTES // 2 + 1), "secret\x00"])
def test_another_text_is_refused(text: str) -> None:
    """Empty, too long or with a NUL, which PostgreSQL cannot store. The message does not repeat the text."""
    with pytest.raises(ValueError, match="A directive") as raised:
        check_text(text)

    assert "aaa" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_text_that_utf_8_cannot_hold_is_refused_without_repeating_it() -> None:
    """Python's own error would contain the whole text."""
    with pytest.raises(ValueError, match="surrogates") as raised:
        check_text("secret \ud800")

    assert "secret" not in repr(raised.value)
    assert raised.value.__cause__ is None


def test_a_directive_shows_its_receipt_and_no_text() -> None:
    """Version and the first 8 hex digits of the SHA-256 identify it; the text stays out of any repr."""
    directive = replace(directive_of(InjectionMode.SYSTEM_FIRST, "abc"), version=12)

    assert directive.receipt == "12@ba7816bf"
    assert "abc" not in repr(directive).replace(directive.sha256, "")
