"""Polling of files that may change while the process runs: secrets and certificates (ADR 0061)."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

POLL_S: Final = 1.0
MAX_STATS_PER_S: Final = 4
SETTLE_S: Final = 0.25
"""A changed file is read once it has not changed for this long, so that it is not read while it is written."""
RETRY_S: Final = 10.0
"""The interval at which files that were refused are tried again: the server may not know a new password yet."""
Signature = tuple[int, ...] | None


class WatchedFiles(Protocol):
    """Files that are used together, such as a certificate and its key."""

    name: str
    """The variables that name the files."""

    @property
    def paths(self) -> Sequence[str]:
        """The paths, which may be symbolic links."""

    async def reload(self) -> bool:
        """Read the files again and use them. Return False if nothing changed. Idempotent.

        Raises ``ValueError`` if they cannot be used. The message contains no secret. The former content stays in use.
        """


class FileObserver(Protocol):
    """Port: receives the outcome of each reload. Never raises, never blocks."""

    def reloaded(self, name: str) -> None:
        """Record that changed files are in use."""

    def refused(self, name: str, reason: str) -> None:
        """Record that changed files cannot be used."""


class FileWatch:
    """A background task that reloads files when they change.

    It compares the device, inode, size and times of the file that each path leads to. Kubernetes updates mounted
    secrets by replacing a symbolic link, which changes the inode. Not every file system has notifications.
    """

    def __init__(
        self,
        files: Sequence[WatchedFiles],
        observer: FileObserver,
        *,
        poll_s: float = POLL_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Set the files. ``poll_s`` is the interval of polls in seconds; many files are polled less often."""
        self.files = files
        self._observer = observer
        self._poll_s = max(poll_s, sum(len(one.paths) for one in files) / MAX_STATS_PER_S)
        self._sleep = sleep
        self._seen: list[Sequence[Signature] | None] = [None] * len(files)
        self._refused: dict[int, tuple[str, int]] = {}

    async def run(self) -> None:
        """Poll until the task is cancelled. Return at once if there are no files."""
        while self.files:
            await self.poll()
            await self._sleep(self._poll_s)

    async def poll(self) -> None:
        """Reload the files that have changed since the last poll; all of them at the first."""
        found = await asyncio.to_thread(self._signatures)
        await self._retry_refused()
        if found == self._seen:
            return
        await self._sleep(SETTLE_S)
        settled = await asyncio.to_thread(self._signatures)
        for number in range(len(self.files)):
            is_changed = found[number] != self._seen[number]
            if is_changed and found[number] == settled[number]:  # else the next poll reads it
                self._seen[number] = settled[number]
                await self._reload(number)

    async def _retry_refused(self) -> None:
        for number, (reason, polls) in tuple(self._refused.items()):
            self._refused[number] = (reason, polls + 1)
            if (polls + 1) * self._poll_s >= RETRY_S:
                await self._reload(number, reason)

    async def _reload(self, number: int, former_reason: str | None = None) -> None:
        """Reload files. A refusal for the same reason as before is not reported again."""
        files = self.files[number]
        self._refused.pop(number, None)
        try:
            is_new = await files.reload()
        except ValueError as wrong:
            self._refused[number] = (str(wrong), 0)
            if str(wrong) != former_reason:
                self._observer.refused(files.name, str(wrong))
        else:
            if is_new:
                self._observer.reloaded(files.name)

    def _signatures(self) -> list[Sequence[Signature] | None]:
        return [tuple(map(_signature, one.paths)) for one in self.files]


def _signature(path: str) -> Signature:
    try:
        found = os.stat(path)  # noqa: PTH116 - follows links, like the read
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
