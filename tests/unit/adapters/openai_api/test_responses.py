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


async def test_a_turn_and_a_count_have_the_same_request() -> None:
    """Only the first is a turn. Both take the directive, so that the count is right."""
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
async def test_requests_for_a_stored_response(name: str, method: str, path: str) -> None:
    """They go to the same path at the provider, with the client's query."""
    operation = STORED[name]
    request = await operation.parse(b"", Target("resp_1"))
    queried = await operation.parse(b"", Target("resp_1", "include[]=a.b&limit=2&after=x%2Fy"))

    assert (operation.method, request.path, request.body, request.model) == (method, path, b"", None)
    assert queried.path == f"{path}?include[]=a.b&limit=2&after=x%2Fy"
    assert (request.reference.id, request.reference.continues) == ("resp_1", False)
    assert not operation.makes_turn


@pytest.mark.parametrize(("query", "streams"), [("stream=true", True), ("stream=false", False), ("", False)])
async def test_a_stored_response_may_be_streamed(query: str, *, streams: bool) -> None:
    """Only when it is retrieved."""
    assert (await STORED["responses.retrieve"].parse(b"", Target("r", query))).is_streaming is streams
    assert not (await STORED["responses.input_items"].parse(b"", Target("r", query))).is_streaming


@pytest.mark.parametrize("query", ["a b", "a=\r\nx: y", "é", "a=<b>", "x" * 2_049])
async def test_a_query_that_is_none(query: str) -> None:
    """IBEX refuses an invalid query and does not repair it."""
    with pytest.raises(ValidationError):
        await STORED["responses.retrieve"].parse(b"", Target("r", query))


def test_names_are_unique() -> None:
    """Records, metrics and schemas are named after them."""
    names = [operation.name for operation in OPERATIONS]
    assert len(names) == len(set(names))
