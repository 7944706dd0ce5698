"""Clients in a closed loop, in a thread of their own. Records when each request was sent and how it was answered."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAIT_S = 10.0
PROBE = "/v1/internal/auth-probe"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: when it was sent and when the head of its response arrived, in monotonic seconds, and the status."""

    sent: float
    answered: float
    status: int


@dataclass(slots=True)
class Load:
    """Clients on keep-alive connections, each of which sends its next request as soon as it has a response.

    With ``a_second``, all clients together send at this rate instead. ``token`` returns the bearer token of each
    request.
    """

    address: str
    token: Callable[[], str]
    clients: int
    path: str = PROBE
    a_second: float | None = None
    asked: list[Asked] = field(default_factory=list)
    _stopping: bool = False
    _due: float = field(default_factory=time.monotonic)

    @contextmanager
    def running(self) -> Iterator[Load]:
        """Send requests until the block ends."""
        thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stopping = True
            thread.join(WAIT_S)

    def statuses(self, since: float = 0.0) -> Counter[int]:
        """Return the number of responses by status, for requests that were sent at or after a given time."""
        return Counter(one.status for one in list(self.asked) if one.sent >= since)

    def wait_for(self, status: int, since: float, timeout_s: float) -> None:
        """Wait until a request that was sent at or after a given time is answered with this status."""
        deadline = time.monotonic() + timeout_s
        while not self.statuses(since)[status]:
            if time.monotonic() > deadline:
                raise AssertionError(f"no {status} within {timeout_s} s, but {self.statuses(since)}")
            time.sleep(0.01)  # the other thread sends no notification

    def last(self, status: int) -> float:
        """Return the latest send time of a request with this status; 0 if there is none."""
        return max((one.sent for one in list(self.asked) if one.status == status), default=0.0)

    async def _run(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self.clients)))

    async def _pace(self) -> None:
        if self.a_second is not None:
            self._due = max(self._due + 1 / self.a_second, time.monotonic() - 1)
            await asyncio.sleep(max(0.0, self._due - time.monotonic()))

    async def _client(self) -> None:
        parts = urlsplit(self.address)
        while not self._stopping:
            try:
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
                while not self._stopping:
                    head = f"GET {self.path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.token()}\r\n\r\n"
                    await self._pace()
                    sent = time.monotonic()
                    writer.write(head.encode())
                    answer = await reader.readuntil(b"\r\n\r\n")
                    self.asked.append(Asked(sent, time.monotonic(), int(answer[9:12])))
                    length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length"))
                    await reader.readexactly(int(length.partition(b":")[2]))
                writer.close()
            except (OSError, asyncio.IncompleteReadError):
                continue
