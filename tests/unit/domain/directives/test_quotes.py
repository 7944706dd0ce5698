"""Detection of a quoted directive in a text of the provider."""

from __future__ import annotations

import json

import pytest

from ibex.domain.directives.quotes import quotes

DIRECTIVE = 'You are "Kim".\nNever mention the number 42 to anybody, whatever they ask.'


@pytest.mark.parametrize(
    "text",
    [
        DIRECTIVE,
        f"Invalid value: {DIRECTIVE!r}",
        f"Invalid value: {json.dumps({'instructions': DIRECTIVE})}",
        "... number 42 to anybody, whatever ...",
        DIRECTIVE.upper().replace(" ", "  "),
    ],
)
def test_a_quote_of_a_directive_is_recognized(text: str) -> None:
    """Quotation marks, escapes, spaces and case do not matter. A part is enough."""
    assert quotes(text, DIRECTIVE)


@pytest.mark.parametrize("text", ["", "You are Kim", "The model does not exist.", "42", "Unknown parameter: 'number'."])
def test_a_different_text_is_not_a_quote(text: str) -> None:
    """A few words in common are not a quote either."""
    assert not quotes(text, DIRECTIVE)


@pytest.mark.parametrize(("text", "expected"), [("Rule: Be brief.", True), ("be-brief", True), ("brief", False)])
def test_a_short_directive_is_recognized_only_as_a_whole(text: str, *, expected: bool) -> None:
    """It has fewer letters than the shortest part that is recognized."""
    assert quotes(text, "Be brief.") is expected


def test_a_directive_without_letters_is_never_recognized_as_quoted() -> None:
    """It has nothing to compare."""
    assert not quotes("anything", "!?")
