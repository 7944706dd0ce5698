"""Epochs in a file, for an instance and its commands on one machine, without Redis (ADR 0070)."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from ibex.domain.freshness.kinds import BOUND_S, Epoch, unknown_epoch

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self
    from uuid import UUID

    from ibex.domain.clock import Clock
    from ibex.domain.ids import IdSource

_LOG = logging.getLogger("ibex.epochs")
_LENGTH: Final = 16
"""The length of the value, a UUIDv7, in bytes."""


class FileEpochs:
    """An ``Epochs`` in one file. The file has one value for all organizations, so a change of one counts for all.

    ``with`` creates the file if necessary and opens it for reading. Only the process that serves requests needs that. A
    command replaces the value without it. A read takes 1 µs (the file is in memory), so it does not need a thread.
    """

    def __init__(self, path: Path, clock: Clock, ids: IdSource) -> None:
        self._path = path
        self._clock = clock
        self._ids = ids
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        """Open the file. Raises ``OSError`` with the file's name."""
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CREAT, 0o600)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def read(self, org_id: UUID) -> Epoch:
        """Return the epoch; absent before the first change, unknown if the file is not open or cannot be read."""
        asked_ns = self._clock.monotonic_ns()
        if self._descriptor is None:
            return unknown_epoch(asked_ns)
        try:
            found = os.pread(self._descriptor, _LENGTH, 0)
        except OSError:
            return unknown_epoch(asked_ns)
        value = f"{org_id.hex}:{found.hex()}" if len(found) == _LENGTH else None
        return Epoch(value, was_read=True, asked_ns=asked_ns)

    async def read_or_create(self, org_id: UUID) -> Epoch:
        """Return the epoch; see ``Epochs``."""
        epoch = self.read(org_id)
        if epoch.was_read and epoch.value is None:
            await self.replace(org_id)
            return self.read(org_id)
        return epoch

    async def replace(self, org_id: UUID) -> bool:  # noqa: ARG002 - see Epochs
        """Replace the epoch; see ``Epochs``. Never creates the file: a running instance would not read the new one."""
        try:
            descriptor = os.open(self._path, os.O_WRONLY)
            try:
                os.pwrite(descriptor, self._ids.uuid7().bytes, 0)
            finally:
                os.close(descriptor)
        except OSError as error:
            _LOG.warning(
                "Cannot write %s (%s). A change is in force within %.0f s instead of at the next request.",
                self._path,
                error.strerror,
                BOUND_S,
            )
            return False
        return True
