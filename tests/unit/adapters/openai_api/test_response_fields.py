"""Tests of the parts of a response that all operations have in common."""

from __future__ import annotations

import pytest

from ibex.adapters.openai_api.response_fields import json_object, stored_name, usage_of
from ibex.domain.record.summary import Usage


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"a":1}', {"a": 1}),
        (b' {"a": 1}\n', {"a": 1}),
        (b'{"a":1} x', None),
        (b"[1]", None),
        (b'{"a"', None),
        (b"[" * 9_999, None),
    ],
)
def test_an_object_is_decoded(text: bytes, expected: object) -> None:
    """The result for any other text is None."""
    assert json_object(text) == expected


def test_a_stored_name_fits_every_database() -> None:
    """The name is short, without NUL or lone surrogates."""
    assert stored_name("a\x00\ud800" + "x" * 300) == "a\ufffd?" + "x" * 253


@pytest.mark.parametrize(
    "usage",
    [
        {
            "prompt_tokens": 5,
            "completion_tokens": 2,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 1},
        },
        {
            "input_tokens": 5,
            "output_tokens": 2.0,
            "total_tokens": 7,
            "input_tokens_details": {"cached_tokens": 1},
            "output_tokens_details": {"reasoning_tokens": 1},
        },
    ],
)
def test_usage_is_read_under_both_names(usage: dict[str, object]) -> None:
    """Chat completions and the Responses API name the counts differently."""
    assert usage_of(usage) == Usage(5, 2, 7, 1, 1)


def test_an_invalid_count_is_none() -> None:
    """It is not zero, which would be a count."""
    assert usage_of({"input_tokens": -1, "output_tokens": "2", "total_tokens": 1.5}) == Usage()
