"""Clients in a closed loop that record which version of a directive each response reports."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from harness.directive_changes import DirectiveOperator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from harness.revocation import RelayedStack

WAIT_S = 20.0
CLIENTS = 8
_BODY = b'{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}]}'


@dataclass(frozen=True, slots=True)
class Seen:
    """One response: send time and arrival of its head in monotonic seconds, status, and version, or 0.

    ``is_cached`` is the value of X-IBEX-Auth-Cached. ``refusal`` is the body unless the status is 200.
    """

    sent: float
    answered: float
    status: int
    version: int
    is_cached: bool = False
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """How a change came into force, in seconds from the time at which the change returned.

    ``first_s``: until the response of the first request with the new version that was sent after the change. ``old_s``:
    until the last request with the old version was sent, 0 if there was none. ``failed``: responses other than 200, by
    status. ``went_back``: responses with another version on a connection that had seen the new one.
    """

    first_s: float
    old_s: float
    failed: Mapping[int, int]
    went_back: int


@dataclass(slots=True)
class DirectiveWatch:
    """Clients with a connection each, so that each worker has some; each sends one request after the other.

    ``pause_s`` is the pause between two requests of a client.
    """

    address: str
    token: str = field(repr=False)
    pause_s: float = 0.0
    seen: list[list[Seen]] = field(default_factory=lambda: [[] for _ in range(CLIENTS)])
    _stopping: bool = False

    @contextmanager
    def running(self) -> Iterator[DirectiveWatch]:
        """Watch until the block ends."""
        thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stopping = True
            thread.join(WAIT_S)

    def since(self, moment: float) -> list[Seen]:
        """Return the responses to requests that were sent at or after a given time."""
        return [seen for client in self.seen for seen in list(client) if seen.sent >= moment]

    def wait_until_all(self, is_so: Callable[[Seen], bool]) -> None:
        """Wait until the latest response of every client satisfies the condition."""
        deadline = time.monotonic() + WAIT_S
        while not all(seen and is_so(seen[-1]) for seen in self.seen):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {WAIT_S} s, but {[seen[-1:] for seen in self.seen]}")
            time.sleep(0.001)  # the other thread sends no notification

    async def _run(self) -> None:
        await asyncio.gather(*(self._client(seen) for seen in self.seen))

    async def _client(self, seen: list[Seen]) -> None:
        parts = urlsplit(self.address)
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.token}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(_BODY)}\r\n\r\n"
        )
        while not self._stopping:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            with suppress(asyncio.IncompleteReadError, OSError):  # a refusal may end the connection
                while not self._stopping:
                    sent = time.monotonic()
                    writer.write(head.encode() + _BODY)
                    lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
                    headers = dict(line.split(": ", 1) for line in lines[1:] if line)
                    version = int(headers.get("x-ibex-directive", "0@").partition("@")[0])
                    is_cached = headers.get("x-ibex-auth-cached") == "true"
                    answered, status = time.monotonic(), int(lines[0].split()[1])
                    body = await reader.readexactly(int(headers["content-length"]))
                    refusal = "" if status == HTTPStatus.OK else body.decode()
                    seen.append(Seen(sent, answered, status, version, is_cached, refusal))
                    await asyncio.sleep(self.pause_s)
            writer.close()


def change_under(
    stack: RelayedStack,
    break_it: Callable[[], object] = lambda: None,
    mend_it: Callable[[], object] = lambda: None,
    *,
    rollback_to: int | None = None,
    pause_s: float = 0.0,
    hold_s: float = 0.0,
) -> Change:
    """Under load, inject a fault, activate a new text or roll back, record the responses, and remove the fault.

    ``pause_s`` is the pause of each client between its requests. ``hold_s`` is how long the fault lasts after the
    change; by default until all clients have seen the new text.
    """
    operator = DirectiveOperator(stack.production.environ)
    watch = DirectiveWatch(stack.address, stack.installation.agent_token.reveal(), pause_s)
    with watch.running():
        watch.wait_until_all(lambda seen: seen.status == 200)
        break_it()
        try:
            changed = operator.set("Answer in rhyme.") if rollback_to is None else operator.rollback(rollback_to)
            number, returned = changed.version, changed.returned
            if not hold_s:
                watch.wait_until_all(lambda seen: seen.version == number and seen.sent >= returned)
            time.sleep(hold_s)
        finally:
            mend_it()
        watch.wait_until_all(lambda seen: seen.version == number and seen.sent >= returned)
    all_seen = [seen for client in watch.seen for seen in client]
    since = [seen for seen in all_seen if seen.sent >= returned]
    return Change(
        first_s=min(seen.answered for seen in since if seen.version == number) - returned,
        old_s=max(
            (seen.sent - returned for seen in since if seen.status == 200 and seen.version != number), default=0.0
        ),
        failed=Counter(seen.status for seen in all_seen if seen.status != 200),
        went_back=sum(
            _went_back([one.version for one in client if one.status == 200], number) for client in watch.seen
        ),
    )


def _went_back(versions: list[int], new: int) -> int:
    """Return how many responses after the new version do not have it. An older version may precede the new one.

    That happens on a worker that was just cut off from Redis and receives the previous change late.
    """
    return sum(version != new for version in versions[versions.index(new) :])
