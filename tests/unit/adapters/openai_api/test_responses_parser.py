"""Tests of the parser for requests of the Responses API."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.responses_requests import parsed, request_of
from ibex.adapters.openai_api.body_parser import MAX_DEPTH
from ibex.adapters.openai_api.responses_parser import MAX_ID_CHARACTERS, MAX_INPUT_ITEMS
from ibex.domain.errors import FieldCode, InvalidJsonError, ValidationError


def wrong_fields(body: bytes) -> list[tuple[str, FieldCode]]:
    """Return the fields that are refused, with the reasons."""
    with pytest.raises(ValidationError) as raised:
        parsed(body)
    return [(error.field, error.code) for error in raised.value.field_errors]


def refused(**members: Any) -> list[tuple[str, FieldCode]]:
    """Return the fields that are refused in a request with these members beside the model."""
    return wrong_fields(json.dumps({"model": "gpt-5", **members}).encode())


def test_the_members_that_the_proxy_uses_are_parsed() -> None:
    """All other members keep their bytes."""
    body = (
        b'{ "model": "gpt-5", "input" : [ {"role":"user","content":"hi"} ],"stream":true,"instructions":null ,"x":1.50}'
    )

    request = parsed(body)

    assert (request.model, request.is_streaming, request.body, request.path) == ("gpt-5", True, body, "responses")
    assert request.raw_input == b'[ {"role":"user","content":"hi"} ]'
    assert (request.raw_instructions, request.reference) == (b"null", None)


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "text",
        [],
        [{"role": "user", "content": "hi"}],
        [{"type": "item_reference", "id": "x"}, {"type": "function_call_output", "output": []}],
        [{"type": "a type of next year", "role": None, "deep": {"a": [1]}}],
    ],
)
def test_input_is_a_text_or_items(given: object) -> None:
    """The provider validates types, roles and contents."""
    assert json.loads(request_of(input=given).raw_input) == given


def test_input_may_be_absent() -> None:
    """A request with a stored prompt needs no input. Its hash is then that of the empty string."""
    assert request_of(prompt={"id": "pmpt_1"}).raw_input == b""


@pytest.mark.parametrize("given", [1, True, {"role": "user"}])
def test_input_of_another_type_is_refused(given: object) -> None:
    """Input must be a string or an array."""
    assert refused(input=given) == [("input", FieldCode.INVALID_FORMAT)]


@pytest.mark.parametrize(
    ("item", "code"),
    [
        ("text", FieldCode.INVALID_FORMAT),
        (None, FieldCode.INVALID_FORMAT),
        ([], FieldCode.INVALID_FORMAT),
        ({"type": 1}, FieldCode.INVALID_FORMAT),
        ({}, FieldCode.REQUIRED),
        ({"content": "hi"}, FieldCode.REQUIRED),
    ],
)
def test_an_invalid_item_is_refused(item: object, code: FieldCode) -> None:
    """The error contains the index of the item."""
    assert refused(input=[{"role": "user"}, item]) == [("input[1]", code)]


def test_too_many_items_are_refused() -> None:
    """The limit is the same as for messages."""
    items = [{"type": "x"}] * MAX_INPUT_ITEMS
    assert len(json.loads(request_of(input=items).raw_input)) == MAX_INPUT_ITEMS
    assert refused(input=[*items, {"type": "x"}]) == [("input", FieldCode.TOO_MANY)]


@pytest.mark.parametrize("given", [1, ["a"], {"a": 1}, False])
def test_instructions_of_another_type_are_refused(given: object) -> None:
    """Instructions must be a string or null."""
    assert refused(instructions=given) == [("instructions", FieldCode.INVALID_FORMAT)]


@pytest.mark.parametrize("given", ["", 1, "é", "a\nb", "x" * (MAX_ID_CHARACTERS + 1)])
def test_an_invalid_previous_response_id_is_refused(given: object) -> None:
    """An id must be printable ASCII, which Redis and PostgreSQL can store."""
    assert refused(previous_response_id=given) == [("previous_response_id", FieldCode.INVALID_FORMAT)]


def test_a_previous_response_id_becomes_a_reference() -> None:
    """The request continues that response. The id may be written with escapes."""
    reference = parsed(b'{"model":"m","previous_response_id":"resp\\u005f1"}').reference
    assert reference is not None
    assert (reference.id, reference.continues) == ("resp_1", True)
    assert request_of(previous_response_id=None).reference is None


@pytest.mark.parametrize(
    ("second", "field"),
    [
        ("previous_response_id", "previous_response_id"),
        ("Previous_Response_Id", "previous_response_id"),
        ("previous_re\\u017fponse_id", "previous_response_id"),
        ("PREVIOUS_RESPONSE_ID", "previous_response_id"),
        ("instructions", "instructions"),
        ("In\\u017ftructions", "instructions"),
        ("Input", "input"),
        ("MODEL", "model"),
        ("Stream", "stream"),
        ("BACKGROUND", "background"),
    ],
)
def test_a_member_that_occurs_twice_or_in_another_case_is_refused(second: str, field: str) -> None:
    """A server that ignores case may read either of the two, so neither is forwarded."""
    first = f'"{field}":"resp_1",' if field != "model" else ""
    body = f'{{"model":"m",{first}"{second}":"resp_2"}}'.encode()

    assert (field, FieldCode.INVALID_FORMAT) in wrong_fields(body)


def test_background_is_refused() -> None:
    """A background response would end after its exchange."""
    assert refused(background=True) == [("background", FieldCode.INVALID_ENUM)]
    assert request_of(background=False).model == "gpt-5"


@pytest.mark.parametrize("name", ["request_id", "Request_ID"])
def test_a_client_cannot_choose_the_id_of_its_response(name: str) -> None:
    """Some servers use ``request_id`` as the response's id. It could be that of another organization's response."""
    assert refused(**{name: "resp_1"}) == [("request_id", FieldCode.INVALID_FORMAT)]


def test_all_invalid_fields_are_reported_at_once() -> None:
    """One error contains them all, including the model."""
    assert wrong_fields(b'{"input":1,"stream":2,"instructions":3}') == [
        ("model", FieldCode.REQUIRED),
        ("input", FieldCode.INVALID_FORMAT),
        ("instructions", FieldCode.INVALID_FORMAT),
        ("stream", FieldCode.INVALID_FORMAT),
    ]


def test_nesting_is_limited() -> None:
    """The limit applies to every part of the request."""
    body = b'{"model":"m","tools":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}"
    assert wrong_fields(body) == [("body", FieldCode.INVALID_FORMAT)]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"model":"m"', b'{"model":"\xff"}', b'{"instructions":"\\ud800"}'])
def test_a_body_that_is_not_a_json_object_is_refused(body: bytes) -> None:
    """Bytes that are not UTF-8 and lone surrogates are refused too."""
    with pytest.raises(InvalidJsonError):
        parsed(body)
