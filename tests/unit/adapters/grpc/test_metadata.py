"""Tests of the parsing of call metadata."""

from __future__ import annotations

from uuid import UUID

import pytest

from ibex.adapters.grpc.metadata import bearer_in, request_id_in

ID = UUID(int=7)


def test_a_request_id_is_a_uuid() -> None:
    """Upper and lower case are both accepted."""
    assert request_id_in([("other", "x"), ("x-request-id", str(ID))]) == ID
    assert request_id_in([("x-request-id", str(ID).upper())]) == ID


@pytest.mark.parametrize("values", [[], [""], ["x"], [str(ID), str(ID)], [ID.bytes]])
def test_an_invalid_or_repeated_request_id_is_ignored(values: list[str | bytes]) -> None:
    """The cases are no id, an empty one, one that is not a UUID, two ids, and bytes."""
    assert request_id_in([("x-request-id", value) for value in values]) is None


@pytest.mark.parametrize("value", ["Bearer abc", "bearer abc", "BEARER  abc "])
def test_a_bearer_credential_is_parsed(value: str) -> None:
    """The case of the scheme does not matter (RFC 9110, section 11.1)."""
    assert bearer_in([("authorization", value)]) == "abc"


@pytest.mark.parametrize(
    "values", [[], [""], ["abc"], ["Bearer"], ["Bearer "], ["Basic abc"], ["Bearer a"] * 2, [b"x"]]
)
def test_a_missing_invalid_or_repeated_credential_is_none(values: list[str | bytes]) -> None:
    """Of two credentials, neither is used."""
    assert bearer_in([("authorization", value) for value in values]) is None
