"""A process that starts an engine and waits to be killed: ``python -m harness.engine_owner <directory>``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from ibex.adapters.clickhouse.engine import ClickHouseEngine

if __name__ == "__main__":
    engine = ClickHouseEngine(Path(sys.argv[1]))
    engine.start()
    print(engine.pid, flush=True)  # noqa: T201 - it reports on a pipe
    signal.pause()
