"""The size of all journals of an installation, read from their files by another process."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

EVERY_S = 0.25


@dataclass(slots=True)
class JournalGauge:
    """Records the largest total of all journals below a folder."""

    root: Path
    most_exchanges: int = 0
    most_bytes: int = 0

    async def run(self) -> None:
        """Measure at regular intervals until cancelled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(EVERY_S)

    def look(self) -> None:
        """Measure once. A journal that cannot be read counts as empty."""
        found = [_held(path) for path in self.root.glob("*/journal.sqlite")]
        self.most_exchanges = max(self.most_exchanges, sum(rows for rows, _ in found))
        self.most_bytes = max(self.most_bytes, sum(size for _, size in found))


def _held(path: Path) -> tuple[int, int]:
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=0)) as connection:
            rows, size = connection.execute("SELECT count(*), coalesce(sum(length(body)), 0) FROM exchanges").fetchone()
            return rows, size
    except sqlite3.Error:
        return 0, 0
