"""A worker process: ``python -m ibex.entrypoints.worker <place>``. The supervisor starts it.

It imports nothing of the command line, which no request needs. Its settings are its environment's alone.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from ibex.entrypoints.outcome import exit_code_of
from ibex.entrypoints.process_tuning import collect_rarely
from ibex.entrypoints.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Serve on the place that is the only argument; return the exit code: 0 done, 1 failed, 2 wrong settings."""

    def run() -> int:
        settings = Settings.load(environ)
        from ibex.entrypoints.proxy import serve_as_worker  # noqa: PLC0415 - once the thresholds are raised
        from ibex.entrypoints.workers import WorkerSlot  # noqa: PLC0415 - the same

        (place,) = arguments
        return serve_as_worker(settings, WorkerSlot.parse(place))

    collect_rarely()
    return exit_code_of(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
