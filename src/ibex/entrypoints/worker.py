"""A worker process: ``python -m ibex.entrypoints.worker <slot>``. The supervisor starts it.

It does not import the command line, which no request needs. It reads its settings only from the environment.
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
    """Serve with the ``WorkerSlot`` in the only argument. Return 0 when done, 1 on failure, 2 on invalid settings."""

    def run() -> int:
        settings = Settings.load(environ)
        from ibex.entrypoints.proxy import serve_as_worker  # noqa: PLC0415 - after ``collect_rarely``
        from ibex.entrypoints.worker_process import WorkerSlot  # noqa: PLC0415 - the same reason

        (slot,) = arguments
        return serve_as_worker(settings, WorkerSlot.parse(slot))

    collect_rarely()
    return exit_code_of(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
