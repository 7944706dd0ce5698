"""A load of chat completions that must all succeed: buffered and streamed, on kept and on fresh connections.

A request that does not get a whole response with status 200 is a failure, whatever the reason. A client that keeps its
connection closes it only when a response says so.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WAIT_S: Final = 60.0
END_S: Final = 20.0
PAUSE_S: Final = 0.01
KINDS: Final = tuple(
    f"{response}, {connection}" for response in ("buffered", "streamed") for connection in ("kept", "fresh")
)


@dataclass(slots=True)
class WholeLoad:
    """Clients of each kind, which send their requests to several addresses in turn."""

    addresses: Sequence[str]
    token: str
    clients: int
    """Clients of each kind."""
    served: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    """The longest time that a buffered request took."""
    _stopping: bool = False

    @contextmanager
    def running(self) -> Iterator[WholeLoad]:
        """Run the load during the block, in a thread of its own."""
        thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stopping = True
            thread.join(END_S)

    def __str__(self) -> str:
        counted = ", ".join(f"{number} {kind}" for kind, number in sorted(self.served.items()))
        return (
            f"{len(self.failures)} requests failed, {self.served.total()} succeeded ({counted}); "
            f"the longest buffered one took {self.longest_s:.2f} s"
        )

    def go_on(self, requests: int) -> None:
        """Wait until every kind has got this many more responses, or one has failed."""
        wanted = {kind: self.served[kind] + requests for kind in KINDS}
        deadline = time.monotonic() + WAIT_S
        while any(self.served[kind] < number for kind, number in wanted.items()) and not self.failures:
            assert time.monotonic() < deadline, self.served
            time.sleep(0.01)  # the other thread sends no notification

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self.clients):
                for kind in KINDS:
                    group.create_task(self._client(kind, number))

    async def _client(self, kind: str, number: int) -> None:
        streamed, kept = "streamed" in kind, "kept" in kind
        while not self._stopping:
            address = self.addresses[number % len(self.addresses)]
            number += 1
            await self._connection(kind, address, stream=streamed, keep=kept)
            await asyncio.sleep(PAUSE_S)

    async def _connection(self, kind: str, address: str, *, stream: bool, keep: bool) -> None:
        """Send requests on one connection: one, or all until a response closes it."""
        at = urlsplit(address)
        step, writer = "connecting", None
        try:
            reader, writer = await asyncio.open_connection(at.hostname, at.port)
            while True:
                began, step = time.monotonic(), "waiting for a response"
                writer.write(chat_request(self.token, "gpt-stream" if stream else "gpt-instant", stream=stream))
                closes = await self._response(reader, stream=stream)
                self.served[kind] += 1
                if not stream:
                    self.longest_s = max(self.longest_s, time.monotonic() - began)
                if closes or not keep or self._stopping:
                    return
                await asyncio.sleep(PAUSE_S)
        except (OSError, asyncio.IncompleteReadError, _FailedError) as failure:
            self.failures.append(f"{kind}, {step}: {failure!r}")
        finally:
            if writer is not None:
                writer.close()

    async def _response(self, reader: asyncio.StreamReader, *, stream: bool) -> bool:
        """Read a whole response, and return whether it closes the connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        body = b""
        if b"transfer-encoding: chunked" in head:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        else:
            length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            body = await reader.readexactly(int(length))
        if not head.startswith(b"http/1.1 200 "):
            raise _FailedError(head[:60] + body[:200])
        if stream and not body.rstrip().endswith(b"data: [DONE]"):
            raise _FailedError(b"the stream has no end: " + body[-200:])
        return b"connection: close" in head


class _FailedError(Exception):
    """A response that is not a success."""


def chat_request(token: str, model: str, *, stream: bool = False) -> bytes:
    """Return the bytes of a chat request to ``harness.fast_openai``'s models."""
    body = json.dumps({"model": model, "stream": stream, "messages": [{"role": "user", "content": "Hi"}]})
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "host: ibex.test",
        f"authorization: Bearer {token}",
        "content-type: application/json",
        f"content-length: {len(body)}",
    ]
    return "\r\n".join((*lines, "", body)).encode()
