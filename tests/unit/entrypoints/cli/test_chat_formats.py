"""The wire formats of ``ibex chat``, apart from the command."""

from __future__ import annotations

from typing import Any

import pytest

from ibex.entrypoints.cli.chat_formats import Answer, ChatFormat, FailedResponseError, ResponsesFormat


def test_chat_completions_repeat_the_conversation() -> None:
    """A request has the messages of all earlier turns. Only a stream asks for usage."""
    chat = ChatFormat("m")
    chat.add_turn("one", Answer("1"))

    body = chat.request("two", stream=True)

    contents = [message["content"] for message in body["messages"]]
    assert (contents, body["stream_options"]) == (["one", "1", "two"], {"include_usage": True})
    assert "stream_options" not in chat.request("two", stream=False)


def test_a_response_without_text_is_empty() -> None:
    """Tool calls and reasoning have no text."""
    assert ChatFormat("m").read_body({"choices": [{"message": {"content": None}}]}) == Answer()
    assert ResponsesFormat("m").read_body({"id": "r", "output": [{"type": "reasoning"}]}) == Answer(id="r")


def test_a_refusal_of_the_model_is_shown_as_text() -> None:
    """The refusal may be in a body or in a stream."""
    answer = Answer()
    responses = ResponsesFormat("m")

    body: dict[str, Any] = {"output": [{"content": [{"type": "refusal", "refusal": "No."}]}]}

    assert responses.read_body(body).text == "No."
    assert responses.read_event({"type": "response.refusal.delta", "delta": "No."}, answer) == "No."
    assert answer.text == "No."


@pytest.mark.parametrize("details", [None, {}, {"reason": None}])
def test_an_incomplete_response_without_a_reason(details: dict[str, object] | None) -> None:
    """The answer is incomplete, for an unknown reason."""
    body: dict[str, Any] = {"id": "r", "output": [], "status": "incomplete", "incomplete_details": details}

    assert ResponsesFormat("m").read_body(body).cut_off == "unknown reason"


@pytest.mark.parametrize("error", [None, {}, {"message": 5}, "text"])
def test_a_failure_without_a_message(error: object) -> None:
    """The error has a default message."""
    with pytest.raises(FailedResponseError, match="The response failed"):
        ResponsesFormat("m").read_body({"status": "failed", "error": error, "output": []})


def test_an_event_with_a_null_error_is_not_a_failure() -> None:
    """Some servers send ``"error": null`` in every event."""
    assert ChatFormat("m").read_event({"error": None, "choices": []}, Answer()) == ""
    assert ResponsesFormat("m").read_event({"type": "keepalive", "error": None}, Answer()) == ""
