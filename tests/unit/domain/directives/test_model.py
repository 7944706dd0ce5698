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
    """The size is counted in UTF-8 and includes both bounds."""
    assert check_text(text) is text


@pytest.mark.parametrize("text", ["", "a" * (MAX_TEXT_BYTES + 1), "ä" * (MAX_TEXT_BYTES // 2 + 1), "secret\x00"])
def test_an_empty_or_too_long_text_or_one_with_a_nul_is_refused(text: str) -> None:
    """PostgreSQL cannot store a NUL. The message does not repeat the text."""
    with pytest.raises(ValueError, match="A directive") as raised:
        check_text(text)

    assert "aaa" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_text_that_cannot_be_encoded_in_utf_8_is_refused_without_repeating_it() -> None:
    """Python's own error would contain the whole text."""
    with pytest.raises(ValueError, match="surrogates") as raised:
        check_text("secret \ud800")

    assert "secret" not in repr(raised.value)
    assert raised.value.__cause__ is None


def test_the_repr_of_a_directive_contains_its_receipt_and_no_text() -> None:
    """The version and the first 8 hex digits of the SHA-256 identify it."""
    directive = replace(directive_of(InjectionMode.SYSTEM_FIRST, "abc"), version=12)

    assert directive.receipt == "12@ba7816bf"
    assert "abc" not in repr(directive).replace(directive.sha256, "")
