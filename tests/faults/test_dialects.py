"""Faults that depend on a setting for servers that differ from OpenAI's (docs/faults.md).

Each goes from a scripted provider's socket through the whole proxy to a client's.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from harness.loopback import DIRECTIVE, Loopback
from harness.openai import ScriptedOpenAI
from harness.openai_wire import Close, chunk_event, completion, open_stream, stream, stream_events, text_deltas

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

SETTINGS = {"IBEX_OPENAI_LENIENT_END": "on", "IBEX_OPENAI_MERGE_INSTRUCTIONS": "on"}
UNAVAILABLE = (503, "PROVIDER_UNAVAILABLE")
EVENTS = stream_events(text_deltas("Hi"))
ROLE = chunk_event({"role": "assistant", "content": None})
HI = chunk_event({"content": "Hi"})


def _call(arguments: str, index: int = 0, **members: Any) -> bytes:
    return chunk_event({"tool_calls": [{"index": index, **members, "function": {"arguments": arguments}}]})


CALLS = (_call('{"city":', id="call_1"), _call('"Paris"}'), _call("{}", 1, id="call_2"))


@pytest.mark.parametrize("events", [(ROLE, *CALLS), (ROLE, HI), (ROLE, HI, *CALLS), (ROLE, HI, b": comment\n\n")])
def test_a_stream_that_ends_after_complete_content_is_complete(proxy: Loopback, events: tuple[bytes, ...]) -> None:
    """The stream has neither a finish reason nor [DONE]. The client gets the events and no error."""
    seen = proxy.ask(stream(*events), stream=True)
    exchange = proxy.record(seen.request_id)
    assert seen.body == b"".join(events)
    assert (exchange.status, exchange.error_code, exchange.is_complete) == (200, None, True)
    assert exchange.summary.finish_reason is None


@pytest.mark.parametrize("events", [(), (ROLE,), (ROLE, *CALLS[:1]), (ROLE, HI, *CALLS[:1])])
def test_a_stream_that_ends_within_a_tool_call_fails(proxy: Loopback, events: tuple[bytes, ...]) -> None:
    """The client gets an error event. An empty stream fails too."""
    seen = proxy.ask(stream(*events), stream=True)
    exchange = proxy.record(seen.request_id)
    assert seen.body.startswith(b"".join(events))
    assert seen.last_event["code"] == "PROVIDER_UNAVAILABLE"
    assert (exchange.status, exchange.error_code) == UNAVAILABLE
    assert not exchange.is_complete


def test_a_stream_without_its_last_chunk_fails(proxy: Loopback) -> None:
    """A connection that closes before the last chunk is not a clean end."""
    seen = proxy.ask((*open_stream(ROLE, HI), Close()), stream=True)
    assert seen.last_event["code"] == "PROVIDER_UNAVAILABLE"
    assert not proxy.record(seen.request_id).is_complete


@pytest.mark.parametrize("role", ["system", "developer"])
def test_the_directive_is_merged_into_the_clients_instruction(proxy: Loopback, role: str) -> None:
    """The server accepts one instruction message. Everything else reaches it as the client wrote it."""
    user = b'{"role" : "user", "content": "\\u00e4"}'
    body = b'{"model":"gpt-4o","messages":[{"role":"%s","content":"Be kind."},%s]}' % (role.encode(), user)
    seen = proxy.ask(completion("ok"), body=body)
    assert seen.status == 200
    assert seen.headers["x-ibex-directive"].startswith("1@")
    sent = proxy.provider.requests[0].body
    assert json.loads(sent)["messages"][0] == {"role": role, "content": f"{DIRECTIVE}\n\nBe kind."}
    assert user in sent


@pytest.mark.parametrize("usage", ["off", "pass"])
def test_usage_that_a_server_sends_unasked_is_forwarded(tmp_path: Path, usage: str) -> None:
    """IBEX does not ask for usage. It forwards and records the usage that the server sends."""
    with (
        ScriptedOpenAI.in_thread() as provider,
        Loopback.running(provider, tmp_path, IBEX_OPENAI_STREAM_USAGE=usage) as proxy,
    ):
        seen = proxy.ask(stream(*EVENTS), stream=True)
        assert seen.body == b"".join(EVENTS)
        assert b"include_usage" not in provider.requests[0].body
        assert proxy.record(seen.request_id).summary.usage.total_tokens == 11
