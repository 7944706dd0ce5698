"""Tests of responses of applications that violate the protocol."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from harness.server_connection import RecordingTransport
from ibex.adapters.http_server.response_cycle import ResponseCycle
from ibex.adapters.http_server.server_protocol import LimitedHttpProtocol

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
BODY = {"type": "http.response.body", "body": b"xy"}


@pytest.mark.parametrize(
    ("messages", "written"),
    [
        ([], b"HTTP/1.1 500 "),
        ([BODY], b"HTTP/1.1 500 "),
        ([START], b""),
        ([START, {**BODY, "body": b"x"}], b""),
        ([START, {**BODY, "body": b"xyz"}], b""),
        ([{**START, "headers": [(b"x", b"a\r\nb: c")]}], b"HTTP/1.1 500 "),
        ([{**START, "headers": []}, {**BODY, "more_body": True}], b"HTTP/1.1 200 "),
    ],
)
async def test_an_application_that_fails_closes_the_connection(
    messages: list[dict[str, object]], written: bytes
) -> None:
    """The client gets a bare 500 if the application has not started a response, else nothing more."""

    async def app(_scope: object, _receive: object, send: Any) -> None:
        assert isinstance(send.__self__, ResponseCycle)
        for message in messages:
            await send(message)
        raise ValueError

    config = uvicorn.Config(app, interface="asgi3", log_config=None, access_log=False, lifespan="off")
    config.load()
    state, transport = ServerState(), RecordingTransport()
    protocol = LimitedHttpProtocol(config=config, server_state=state, app_state={})
    protocol.connection_made(transport)
    protocol.data_received(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    await asyncio.gather(*state.tasks)

    assert transport.written.startswith(written)
    assert bool(transport.written) is bool(written)
    assert not transport.written.endswith(b"0\r\n\r\n")
    assert transport.half_closed
    protocol.connection_lost(None)
