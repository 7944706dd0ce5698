"""Parsing of call metadata."""

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
def test_anything_else_is_no_request_id(values: list[str | bytes]) -> None:
    """No id, an empty one, one that is not a UUID, two, and bytes."""
    assert request_id_in([("x-request-id", value) for value in values]) is None


@pytest.mark.parametrize("value", ["Bearer abc", "bearer abc", "BEARER  abc "])
def test_a_bearer_credential_is_found(value: str) -> None:
    """The case of the scheme does not matter (RFC 9110, section 11.1)."""
    assert bearer_in([("authorization", value)]) == "abc"


@pytest.mark.parametrize(
    "values", [[], [""], ["abc"], ["Bearer"], ["Bearer "], ["Basic abc"], ["Bearer a"] * 2, [b"x"]]
)
def test_no_credential_is_none(values: list[str | bytes]) -> None:
    """If there are two, none is chosen."""
    assert bearer_in([("authorization", value) for value in values]) is None
