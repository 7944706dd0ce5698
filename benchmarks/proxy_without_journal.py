"""`ibex serve` with a journal in memory in the place of the one on disk: what the latter costs. For benchmarks only."""

from __future__ import annotations

import sys

from dependency_injector import providers

from harness.memory.journal import InMemoryJournal
from ibex.entrypoints.cli.main import main
from ibex.entrypoints.environments import ProductionAdapters


class OpenInMemoryJournal(InMemoryJournal):
    """One that can be opened, closed and measured as the one on disk."""

    def __init__(self) -> None:
        super().__init__(1_000_000)

    async def open(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    async def ping(self) -> None:
        """Be there."""

    def stored_bytes(self) -> int:
        """Return 0: nothing is stored."""
        return 0


if __name__ == "__main__":
    ProductionAdapters.journal.override(providers.Singleton(OpenInMemoryJournal))
    sys.exit(main())
