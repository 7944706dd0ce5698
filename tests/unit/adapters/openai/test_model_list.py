"""Tests of the list of models in OpenAI's format."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ibex.adapters.openai.model_list import parse_model_list
from ibex.domain.proxying.provider import MAX_MODELS, ProviderModel


def test_models_are_read_in_their_order() -> None:
    """Other fields are ignored."""
    listed = {
        "object": "list",
        "data": [
            {"id": "gpt-4o", "object": "model", "created": 1_715_367_049, "owned_by": "system", "pricing": {"in": 1}},
            {"id": "a/b:c", "owned_by": "acme"},
        ],
    }
    assert parse_model_list(json.dumps(listed).encode()) == [
        ProviderModel("gpt-4o", 1_715_367_049, "system"),
        ProviderModel("a/b:c", None, "acme"),
    ]


def test_an_array_without_an_enclosing_object_is_read() -> None:
    """Some compatible servers send it."""
    assert parse_model_list(b'\n[{"id":"m"}]\n') == [ProviderModel("m")]


@pytest.mark.parametrize(
    ("created", "expected"),
    [(7.0, 7), (7.5, None), (True, None), ("2026-01-02", None), (None, None), (-1, -1), (1e300, int(1e300))],
)
def test_the_time_of_creation_is_a_whole_number_or_none(created: Any, expected: int | None) -> None:
    """Fractions and values of other types are ignored."""
    assert parse_model_list(json.dumps([{"id": "m", "created": created}]).encode())[0].created == expected


@pytest.mark.parametrize("entry", ['"m"', "null", "[]", "{}", '{"id":null}', '{"id":7}', "1"])
def test_an_entry_without_an_id_is_skipped(entry: str) -> None:
    """The other entries are read. A list in which no entry has an id is refused."""
    assert parse_model_list(f'{{"data":[{entry},{{"id":"m","owned_by":1}}]}}'.encode()) == [ProviderModel("m")]
    with pytest.raises(ValueError, match="without names"):
        parse_model_list(f'{{"data":[{entry}]}}'.encode())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'[{"id":"\\ud800"}]',
        b"{}",
        b"null",
        b"7",
        b"<html>",
        b'{"data":{}}',
        b'{"data":[{"id":"m"}',
        b'{"models":[]}',
        b"[" * 100_000,
        b"[" + b"1," * 200_001 + b'{"id":"m"}]',
    ],
)
def test_a_body_that_is_not_a_list_of_models_is_refused(body: bytes) -> None:
    """The reason contains no part of the body."""
    with pytest.raises(ValueError, match="not a list of models"):
        parse_model_list(body)


def test_an_empty_list_of_models_is_accepted() -> None:
    """Such a provider has no models."""
    assert parse_model_list(b'{"object":"list","data":[]}') == []


def test_a_list_that_is_too_long_is_truncated() -> None:
    """The first models are kept."""
    listed = parse_model_list(json.dumps([{"id": str(number)} for number in range(MAX_MODELS + 1)]).encode())
    assert (len(listed), listed[-1].id) == (MAX_MODELS, str(MAX_MODELS - 1))
