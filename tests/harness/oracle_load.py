"""Random chat load during faults, with a provider that records its requests, so that both sides can be compared.

Every request has its own id, in its header and in the text that the provider receives, so that the two can be matched.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import UUID

from harness.openai import ScriptedOpenAI
from harness.openai_wire import (
    USAGE,
    Close,
    Gate,
    Pause,
    Send,
    chunked,
    completion,
    cut_in_body,
    error,
    open_stream,
    stream_events,
    text_deltas,
)

if TYPE_CHECKING:
    from random import Random

    from harness.openai import RecordedRequest
    from harness.openai_wire import Script

PATIENCE_S = 20.0
MODEL = "gpt-4o"
SESSIONS_KEPT = 12
ENDS = 0.02
"""How likely a request is to end its session."""


class CountingOpenAI(ScriptedOpenAI):
    """A provider that records request ids. The request selects its response, which may be slow or invalid."""

    def __init__(self) -> None:
        super().__init__()
        self.received: set[UUID] = set()

    def script_for(self, request: RecordedRequest) -> Script:
        """Select the response that the last message names."""
        asked = request.json()
        wanted = json.loads(asked["messages"][-1]["content"])
        first_time = UUID(wanted["id"]) not in self.received
        self.received.add(UUID(wanted["id"]))
        kind = wanted["kind"]
        if kind == "flaky" and first_time:
            return error(503)
        if kind == "dies":
            if not asked.get("stream"):
                return cut_in_body(text_of(wanted["id"]))
            return (*open_stream(*_events(wanted)[:2]), Close())
        if kind == "slow":
            gate = Gate()
            asyncio.get_running_loop().call_later(wanted["slow_s"], gate.open)
            return (Pause(gate), *_plain(asked, wanted))
        return _plain(asked, wanted)


def text_of(request_id: str) -> str:
    """Return the text of the completion for a request."""
    return f"An answer to {request_id}."


def _events(wanted: dict[str, str]) -> list[bytes]:
    first, last = text_of(wanted["id"])[:9], text_of(wanted["id"])[9:]
    return stream_events(text_deltas(first, last))


def _plain(asked: dict[str, object], wanted: dict[str, str]) -> Script:
    if not asked.get("stream"):
        return completion(text_of(wanted["id"]))
    return (*open_stream(*_events(wanted)), Send(chunked(b"")))


@dataclass(frozen=True, slots=True)
class Asked:
    """One request and its outcome. ``complete``: a valid response arrived in full. Times are the event loop's."""

    id: UUID
    handle: str
    stream: bool
    ends: bool
    messages_hash: str
    complete: bool
    status: int
    began: float
    ended: float
    model: str = MODEL

    @property
    def completion_hash(self) -> str:
        """The text hash that the checkpoint of a complete response must have."""
        return hashlib.sha256(text_of(str(self.id)).encode()).hexdigest()

    @property
    def tokens(self) -> tuple[object, object]:
        """The token counts that the checkpoint of a complete response must have."""
        return USAGE["prompt_tokens"], USAGE["completion_tokens"]


@dataclass(slots=True)
class OracleLoad:
    """Clients that send requests until they are told to stop. Each uses a few sessions, and some disconnect early."""

    address: str
    token: str
    random: Random
    asked: list[Asked] = field(default_factory=list)
    stopping: bool = False
    handles: list[str] = field(default_factory=lambda: [f"session-{n}" for n in range(SESSIONS_KEPT)])
    _opened: int = SESSIONS_KEPT

    async def run(self, clients: int) -> None:
        """Send requests until ``stopping``."""
        await asyncio.gather(*(self._client() for _ in range(clients)))

    async def _client(self) -> None:
        while not self.stopping:
            await self._ask()

    async def _ask(self) -> None:
        choose, loop = self.random, asyncio.get_running_loop()
        request_id = UUID(int=choose.getrandbits(128), version=4)
        place = choose.randrange(len(self.handles))
        handle, ends = self.handles[place], choose.random() < ENDS
        if ends:  # requests in flight may still arrive after the end of their session
            self._opened += 1
            self.handles[place] = f"session-{self._opened}"
        stream = choose.random() < 0.5
        kind = choose.choices(["good", "slow", "flaky", "dies"], [6, 3, 1, 1])[0]
        wanted = {"id": str(request_id), "kind": kind, "slow_s": choose.uniform(0.02, 0.3)}
        messages = json.dumps([{"role": "user", "content": json.dumps(wanted)}])
        leaves_s = choose.uniform(0.0, 0.2) if choose.random() < 0.1 else PATIENCE_S
        status, complete, began = 0, False, loop.time()
        with suppress(OSError, asyncio.IncompleteReadError, TimeoutError, ValueError):
            async with asyncio.timeout(leaves_s):
                body = f'{{"model":"{MODEL}","messages":{messages},"stream":{str(stream).lower()}}}'.encode()
                status, answer = await self._exchange(request_id, handle, body, ends=ends)
                end = b"data: [DONE]\n\n" if stream else text_of(str(request_id)).encode()
                complete = status == 200 and (answer.endswith(end) if stream else end in answer)
        if status == 0:
            await asyncio.sleep(0.02)  # the server may be unavailable for a moment
        digest = hashlib.sha256(messages.encode()).hexdigest()
        self.asked.append(Asked(request_id, handle, stream, ends, digest, complete, status, began, ended=loop.time()))

    async def _exchange(self, request_id: UUID, handle: str, body: bytes, *, ends: bool) -> tuple[int, bytes]:
        parts = urlsplit(self.address)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            head = [
                "POST /v1/chat/completions HTTP/1.0",  # responses that end with the connection
                "host: x",
                f"authorization: Bearer {self.token}",
                "content-type: application/json",
                f"x-request-id: {request_id}",
                f"x-ibex-session-id: {handle}",
                f"x-ibex-session-end: {str(ends).lower()}",
                f"content-length: {len(body)}",
            ]
            writer.write("\r\n".join([*head, "", ""]).encode() + body)
            fields = await reader.readuntil(b"\r\n\r\n")
            return int(fields.split(b" ", 2)[1]), await self._rest(reader, fields)
        finally:
            writer.close()

    async def _rest(self, reader: asyncio.StreamReader, fields: bytes) -> bytes:
        for line in fields.lower().split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name == b"content-length":
                return await reader.readexactly(int(value))
        return await reader.read()
