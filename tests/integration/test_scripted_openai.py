"""The scripted provider, tested with OpenAI's SDK."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from pydantic import BaseModel

from harness.openai import ScriptedOpenAI
from harness.openai_default import TEXT_PIECES
from harness.openai_wire import Gate, Pause, error, text_stream

pytestmark = pytest.mark.integration

MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Hi"}]
TESTS = Path(__file__).parent.parent


def sdk(base_url: str) -> openai.OpenAI:
    """Return OpenAI's SDK."""
    return openai.OpenAI(base_url=base_url, api_key="sk-test", max_retries=0)


def test_without_a_script_the_server_sends_plausible_responses() -> None:
    """Responses are buffered or streamed. The stream has usage only if it was requested."""
    with ScriptedOpenAI.in_thread() as server, sdk(server.base_url) as client:
        body = client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        chunks = list(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True))
        with_usage = list(
            client.chat.completions.create(
                model="gpt-4o", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
            )
        )
    assert body.choices[0].message.content == "".join(TEXT_PIECES)
    assert body.usage is not None
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "".join(TEXT_PIECES)
    assert [chunk.usage is None for chunk in with_usage] == [True] * len(chunks) + [False]


def test_tools_and_schemas_get_matching_responses() -> None:
    """The response calls the first tool, also in a stream, or has content that fits the schema."""

    class Answer(BaseModel):
        city: str
        degrees: list[int]

    tool: openai.types.chat.ChatCompletionToolParam = {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
    with ScriptedOpenAI.in_thread() as server, sdk(server.base_url) as client:
        called = client.chat.completions.create(model="gpt-4o", messages=MESSAGES, tools=[tool])
        with client.chat.completions.stream(model="gpt-4o", messages=MESSAGES, tools=[tool]) as stream:
            streamed = stream.get_final_completion()
        parsed = client.chat.completions.parse(model="gpt-4o", messages=MESSAGES, response_format=Answer)
    for completion in (called, streamed):
        (call,) = completion.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert (call.function.name, call.function.arguments) == ("weather", '{"city": "scripted"}')
    assert parsed.choices[0].message.parsed == Answer(city="scripted", degrees=[1])


def test_an_invalid_request_is_refused() -> None:
    """Tests therefore notice an invalid request of the proxy."""
    with ScriptedOpenAI.in_thread() as server, sdk(server.base_url) as client:
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="gpt-4o", messages=[])
        with pytest.raises(openai.NotFoundError):
            client.files.list()
        assert [request.path for request in server.requests] == ["/v1/chat/completions", "/v1/files"]


def test_the_server_lists_models() -> None:
    """Each model has all of OpenAI's members."""
    with ScriptedOpenAI.in_thread() as server, sdk(server.base_url) as client:
        listed = client.models.list().data
    assert [model.id for model in listed][:2] == ["gpt-4o", "gpt-4o-mini"]
    assert {(model.object, model.owned_by) for model in listed} == {("model", "system")}


def test_scripts_are_played_in_order_from_any_thread() -> None:
    """This includes errors and gates."""
    gate = Gate()
    with ScriptedOpenAI.in_thread() as server, sdk(server.base_url) as client:
        server.put(error(429), (Pause(gate), *text_stream("a", "b")))
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        gate.open()
        assert len(list(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True))) == 5
        assert server.requests[1].json()["messages"] == MESSAGES
        assert server.requests[1].header("Authorization") == "Bearer sk-test"


async def test_the_server_knows_when_a_connection_is_closed(openai_server: ScriptedOpenAI) -> None:
    """The time is known also if the client closes it."""
    before = asyncio.get_running_loop().time()
    host, port = openai_server.base_url.removeprefix("http://").removesuffix("/v1").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    openai_server.put((Pause(Gate()),))
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
    request = await openai_server.request(1)
    assert (request.body, request.closed.done()) == (b"{}", False)
    writer.close()
    await writer.wait_closed()
    assert await request.closed_at() >= before


def test_the_server_runs_as_a_program() -> None:
    """Its first line has the address. SIGTERM stops it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.openai"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(TESTS)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        base_url = process.stdout.readline().removeprefix("listening on ").strip()
        with sdk(base_url) as client:
            assert client.chat.completions.create(model="gpt-4o", messages=MESSAGES).choices
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()
