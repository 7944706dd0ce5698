"""The record of a request: the body at the provider, the checkpoint and the trace."""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from harness.dev import IbexDev
    from harness.openai import ScriptedOpenAI

pytestmark = pytest.mark.integration

# White space, number formats and escapes that re-encoding would change, and a member that IBEX does not know.
MESSAGES = b'[ {"role":"user",  "content":"caf\\u00e9 \\/ caf\xc3\xa9", "x": 1.50} ]'
MEMBERS = b'"model": "gpt-4o-mini", "messages": ' + MESSAGES + b', "temperature": 1.0, "unknown":{"b":1,"a":[1e2]}'
DIRECTIVE = 'Be "brief".'
VISIBLE_WITHIN_S = 5.0
MAY_BE_EMPTY = {"error_code", "cached_tokens", "reasoning_tokens", "user_id"}
NIL = "00000000-0000-0000-0000-000000000000"


@pytest.fixture(scope="module")
def token(provided_dev: IbexDev) -> str:
    """A token of a new agent, for which no worker has cached another directive."""
    agent = provided_dev.ibex_json("agent", "create", "recorded")["id"]
    provided_dev.ibex_json("directive", "set", agent, DIRECTIVE)
    return str(provided_dev.ibex_json("token", "create", "--name", "t", "--agent", agent)["token"])


@pytest.mark.parametrize("streamed", [False, True], ids=["buffered", "streamed"])
def test_a_request_is_recorded_once_and_completely(
    provided_dev: IbexDev, token: str, upstream: ScriptedOpenAI, *, streamed: bool
) -> None:
    """The provider gets the directive and the exact bytes. The checkpoint and the trace match the response in time."""
    handle = f"conversation-{streamed}"
    body = b"{" + MEMBERS + (b', "stream": true' if streamed else b"") + b"}"
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "X-IBEX-Session-ID": handle,
    }
    with httpx.Client(trust_env=False) as client:
        answer = client.post(f"{provided_dev.address}/v1/chat/completions", content=body, headers=headers)
    answered = time.monotonic()
    assert answer.status_code == 200, answer.text

    received = upstream.requests[-1].body
    assert json.loads(received)["messages"][0] == {"role": "system", "content": DIRECTIVE}
    own_message = MESSAGES.strip(b"[] ")
    assert own_message in received
    for member in (b'"model":"gpt-4o-mini"', b'"temperature":1.0', b'"unknown":{"b":1,"a":[1e2]}'):
        assert member in received

    trace = _trace(provided_dev, answer.headers["x-request-id"], answered)
    session = provided_dev.ibex_json("sessions", "show", handle)
    (turn,) = session["turns"]
    assert turn["messages_hash"] == hashlib.sha256(MESSAGES).hexdigest()
    assert turn["completion_hash"] == hashlib.sha256(_text(answer, streamed=streamed).encode()).hexdigest()
    assert (turn["is_streaming"], turn["is_complete"], turn["turn_index"]) == (streamed, True, 0)
    assert turn["id"] == trace["checkpoint_id"]
    assert turn["provider_request_id"] == answer.headers["x-ibex-provider-request-id"]
    for name in ("input_tokens", "output_tokens"):
        assert turn[name] == trace[name] > 0
    empty = {name for name, value in trace.items() if value in (None, "", 0, 0.0, NIL)}
    assert empty <= MAY_BE_EMPTY | {"is_streaming"}, empty


def _trace(dev: IbexDev, request_id: str, answered: float) -> dict[str, Any]:
    while time.monotonic() < answered + VISIBLE_WITHIN_S:
        for trace in dev.ibex_json("traces", "tail"):
            if trace["request_id"] == request_id:
                return dict(trace)
    raise AssertionError("the trace did not become visible")


def _text(answer: httpx.Response, *, streamed: bool) -> str:
    if not streamed:
        return str(answer.json()["choices"][0]["message"]["content"])
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    deltas = [choice["delta"] for event in events for choice in json.loads(event)["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)
