"""Differences between two texts."""

from __future__ import annotations

import pytest

from ibex.domain.directives.diff import NO_NEWLINE, DirectiveDiff, unified_lines


def test_equal_texts_do_not_differ() -> None:
    """The diff is empty, without a header."""
    assert unified_lines("one\ntwo", "one\ntwo") == []


def test_lines_are_marked_as_removed_added_or_unchanged() -> None:
    """The first character of a line is the mark."""
    lines = unified_lines("one\ntwo\nthree\n", "one\n2\nthree\nfour\n")

    assert lines == ["@@ -1,3 +1,4 @@", " one", "-two", "+2", " three", "+four"]


def test_a_newline_at_the_end_is_a_difference() -> None:
    """A directive is sent to the provider byte for byte, so the diff shows its last newline."""
    assert unified_lines("one", "one\n") == ["@@ -1 +1 @@", "-one", NO_NEWLINE, "+one"]


@pytest.mark.parametrize("character", ["\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_only_a_newline_ends_a_line(character: str) -> None:
    """Other line separators of Unicode stay within the line."""
    assert unified_lines("", f"one{character}two\n") == ["@@ -0,0 +1 @@", f"+one{character}two"]


def test_lines_that_look_like_a_header_are_counted() -> None:
    """Lines of dashes and pluses are text as well."""
    diff = DirectiveDiff(1, 2, unified_lines("-- a\n++ b\n", "++ a\n++ b\n++ c\n"))

    assert (diff.added, diff.removed) == (2, 1)


def test_the_repr_of_a_diff_contains_no_text() -> None:
    """Directives must not appear in logs."""
    assert "secret" not in repr(DirectiveDiff(1, 2, unified_lines("", "my secret")))
