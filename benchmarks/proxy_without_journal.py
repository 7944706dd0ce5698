"""`ibex serve` with an in-memory journal instead of the one on disk, to measure its cost. For benchmarks only."""

from __future__ import annotations

import sys

from dependency_injector import providers

from harness.memory.journal import InMemoryJournal
from ibex.entrypoints.cli.main import main
from ibex.entrypoints.environments import ProductionAdapters


class OpenInMemoryJournal(InMemoryJournal):
    """An in-memory journal with the lifecycle and metrics of that on disk."""

    def __init__(self) -> None:
        super().__init__(1_000_000)

    async def open(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    async def ping(self) -> None:
        """Do nothing: the journal is always available."""

    def stored_bytes(self) -> int:
        """Return 0: nothing is stored."""
        return 0


if __name__ == "__main__":
    ProductionAdapters.journal.override(providers.Singleton(OpenInMemoryJournal))
    sys.exit(main())
