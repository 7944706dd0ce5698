"""Tests of requests of the Responses API: the directive, and the instructions that the client sees."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.responses_requests import forwarded, parsed, request_of
from ibex.adapters.openai_api.responses_request import StoredResponseRequest
from ibex.domain.directives.model import Directive, InjectionMode, text_hash
from ibex.domain.proxying.provider import Dialect

if TYPE_CHECKING:
    from ibex.domain.proxying.operation import ResponseReader

DIALECT = Dialect()

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
directives = st.builds(lambda mode, text: directive_of(text, mode), st.sampled_from(InjectionMode), texts.filter(bool))
members = st.dictionaries(
    texts.filter(
        lambda name: (
            name.casefold() not in {"model", "input", "instructions", "stream", "background", "previous_response_id"}
        )
    ),
    st.none() | st.booleans() | texts | st.lists(st.integers(), max_size=3),
    max_size=4,
)


def directive_of(text: str, mode: InjectionMode = InjectionMode.SYSTEM_FIRST) -> Directive:
    """Return a directive."""
    return Directive(UUID(int=1), 1, mode, text, text_hash(text))


@pytest.mark.parametrize(
    ("mode", "own", "expected"),
    [
        (InjectionMode.SYSTEM_FIRST, "Own.", "Rule.\n\nOwn."),
        (InjectionMode.USER_PREPEND, "Own.", "Rule.\n\nOwn."),
        (InjectionMode.SYSTEM_APPEND, "Own.", "Own.\n\nRule."),
        *((mode, own, "Rule.") for mode in InjectionMode for own in (None, "")),
    ],
)
def test_the_directive_is_joined_with_the_clients_instructions(
    mode: InjectionMode, own: str | None, expected: str
) -> None:
    """It precedes them, or follows them for ``system_append``. Without them it is the only instruction."""
    request = request_of(input="hi", instructions=own).with_directive(directive_of("Rule.", mode), DIALECT)
    assert json.loads(request.body)["instructions"] == expected


def test_absent_instructions_are_added() -> None:
    """The new member is the last one."""
    request = parsed(b'{"model":"m","input":"hi"}').with_directive(directive_of("Rule."), DIALECT)
    assert request.body == b'{"model":"m","input":"hi","instructions":"Rule."}'


@given(members, texts | st.none(), directives)
def test_only_the_instructions_change(others: dict[str, Any], own: str | None, directive: Directive) -> None:
    """All other members keep their position and bytes. The hash covers the client's input."""
    wanted = {"model": "m", "input": "hi", **({} if own is None else {"instructions": own}), **others}
    body = json.dumps(wanted).encode()
    before = parsed(body)

    after = before.with_directive(directive, DIALECT)

    assert [m for m in after.members if m.name != "instructions"] == [
        m for m in before.members if m.name != "instructions"
    ]
    assert json.loads(after.body) == {**wanted, "instructions": json.loads(after.body)["instructions"]}
    assert before.body == body
    assert after.content_hash() == hashlib.sha256(b'"hi"').hexdigest()


@given(texts | st.none(), directives)
def test_the_client_sees_its_own_instructions(own: str | None, directive: Directive) -> None:
    """The reader restores the client's bytes, whatever the instructions and the directive contain."""
    raw = b"" if own is None else b',"instructions":' + json.dumps(own).encode()
    request = parsed(b'{"model":"m","input":"hi"' + raw + b"}").with_directive(directive, DIALECT)
    sent = json.loads(request.body)["instructions"]
    response = {"id": "resp_1", "object": "response", "status": "completed", "instructions": sent, "output": []}

    body = request.response_reader(DIALECT).read_body(json.dumps(response).encode())

    assert body == json.dumps({**response, "instructions": own}).encode()


def stored(directive: Directive | None, *, returns_response: bool = True) -> ResponseReader:
    """Return the reader of a stored response that was made with a directive."""
    request = StoredResponseRequest("resp_1", "responses/resp_1", is_streaming=False, returns_response=returns_response)
    return request.with_directive_hidden(directive).response_reader(DIALECT)


@given(texts | st.none(), directives)
def test_a_stored_response_shows_the_clients_instructions(own: str | None, directive: Directive) -> None:
    """The reader removes the recorded version of the directive. No client text is stored for this."""
    request = request_of(input="hi", instructions=own).with_directive(directive, DIALECT)
    response = {"id": "resp_1", "status": "completed", "instructions": json.loads(request.body)["instructions"]}

    shown = json.loads(stored(directive).read_body(json.dumps(response).encode()))["instructions"]

    assert shown == (own or None)


@pytest.mark.parametrize("kept", ["Rule.", "x\n\nRule.", "Rule.Rule.\n\nown", "Rule", "Rule.\r\n\r\nown", ["Rule."]])
def test_instructions_that_do_not_match_the_directive_are_hidden(kept: object) -> None:
    """The reader does not guess where the directive is. The member becomes null."""
    response = {"id": "resp_1", "status": "completed", "instructions": kept}
    for directive in (directive_of("Rule."), None):
        shown = json.loads(stored(directive).read_body(json.dumps(response).encode()))
        assert shown == {**response, "instructions": None}


def test_a_streamed_stored_response_shows_the_clients_instructions() -> None:
    """The reader removes the directive from every event that contains the response."""
    data = json.dumps({"type": "response.completed", "response": {"id": "r", "instructions": "Rule.\n\nOwn."}})
    reader = stored(directive_of("Rule."))
    assert forwarded(reader, [f"data: {data}\n\n".encode()]) == f"data: {data}\n\n".replace("Rule.\\n\\n", "").encode()  # type: ignore[arg-type]


def test_a_stored_response_is_not_a_turn() -> None:
    """The summary has neither usage nor a response id."""
    reader = stored(None)
    reader.read_body(b'{"id":"resp_1","status":"completed","usage":{"input_tokens":5}}')
    assert (reader.summary().usage.input_tokens, reader.summary().response_id) == (None, None)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_retrieving_a_failed_response_is_a_success(status: str) -> None:
    """The same applies to a cancelled response."""
    reader = stored(None)
    reader.read_body(json.dumps({"id": "resp_1", "status": status}).encode())
    assert (reader.failed, reader.summary().finish_reason) == (False, status)


def test_a_body_without_the_response_is_forwarded_unchanged() -> None:
    """An example is the list of the response's input items."""
    body = b'{"object":"list", "instructions": "theirs"}'
    assert stored(None, returns_response=False).read_body(body) == body


def test_the_repr_of_a_request_contains_no_content() -> None:
    """The repr contains neither the input nor the instructions."""
    request = request_of(input="canary", instructions="canary").with_directive(directive_of("canary"), DIALECT)
    assert "canary" not in repr(request)
    assert "canary" not in repr(StoredResponseRequest("canary", "canary", is_streaming=False, returns_response=True))
