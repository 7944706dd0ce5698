"""Tests of the operations of the Responses API."""

from __future__ import annotations

import pytest

from ibex.adapters.openai_api.operations import OPERATIONS
from ibex.adapters.openai_api.responses import RESPONSES_OPERATIONS, InputTokens, Responses, StoredResponseOperation
from ibex.domain.errors import ValidationError
from ibex.domain.proxying.operation import NO_TARGET, Target

STORED = {
    operation.name: operation for operation in RESPONSES_OPERATIONS if isinstance(operation, StoredResponseOperation)
}


async def test_a_turn_and_a_token_count_accept_the_same_body() -> None:
    """Only the first is a turn. Both apply the directive, so that the count is correct."""
    body = b'{"model":"m","input":"hi"}'
    assert (await Responses().parse(body, NO_TARGET)).path == "responses"
    assert (await InputTokens().parse(body, NO_TARGET)).path == "responses/input_tokens"
    assert (Responses.makes_turn, InputTokens.makes_turn) == (True, False)
    assert (Responses.takes_directive, InputTokens.takes_directive) == (True, True)


@pytest.mark.parametrize(
    ("name", "method", "path"),
    [
        ("responses.retrieve", "GET", "responses/resp_1"),
        ("responses.delete", "DELETE", "responses/resp_1"),
        ("responses.cancel", "POST", "responses/resp_1/cancel"),
        ("responses.input_items", "GET", "responses/resp_1/input_items"),
    ],
)
async def test_a_request_for_a_stored_response_keeps_its_path_and_query(name: str, method: str, path: str) -> None:
    """The request names the response but does not continue it, and is not a turn."""
    operation = STORED[name]
    request = await operation.parse(b"", Target("resp_1"))
    queried = await operation.parse(b"", Target("resp_1", "include[]=a.b&limit=2&after=x%2Fy"))

    assert (operation.method, request.path, request.body, request.model) == (method, path, b"", None)
    assert queried.path == f"{path}?include[]=a.b&limit=2&after=x%2Fy"
    assert (request.reference.id, request.reference.continues) == ("resp_1", False)
    assert not operation.makes_turn


@pytest.mark.parametrize(("query", "streams"), [("stream=true", True), ("stream=false", False), ("", False)])
async def test_only_retrieving_a_stored_response_may_stream(query: str, *, streams: bool) -> None:
    """The parameter ``stream=true`` of the query asks for a stream. Other operations ignore it."""
    assert (await STORED["responses.retrieve"].parse(b"", Target("r", query))).is_streaming is streams
    assert not (await STORED["responses.input_items"].parse(b"", Target("r", query))).is_streaming


@pytest.mark.parametrize("query", ["a b", "a=\r\nx: y", "é", "a=<b>", "x" * 2_049])
async def test_an_invalid_query_is_refused(query: str) -> None:
    """IBEX does not repair it."""
    with pytest.raises(ValidationError):
        await STORED["responses.retrieve"].parse(b"", Target("r", query))


def test_operation_names_are_unique() -> None:
    """Records, metrics and schemas are named after them."""
    names = [operation.name for operation in OPERATIONS]
    assert len(names) == len(set(names))
