"""Count the calls that Python code makes in this process's first thread, in a file that another process reads.

Python imports this module when it starts, if this folder is in ``PYTHONPATH``. The file is in the folder that
``BENCH_GATE_CALLS`` names, and its name is the process id. It holds one unsigned 64-bit number: calls of Python
functions, where each resumption of a coroutine or generator counts, and calls of functions written in C.

The first thread of a worker runs its event loop. The other threads encode and send batches: how many batches there are
depends on time and not on the code.
"""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path


def _count_into(path: Path) -> None:
    with path.open("w+b") as file:
        file.truncate(8)
        memory = mmap.mmap(file.fileno(), 8)
    calls = memoryview(memory).cast("Q")

    def profile(_frame: object, event: str, _argument: object) -> None:
        if event == "call" or event == "c_call":  # noqa: PLR1714 - a tuple costs more, and this runs at each call
            calls[0] += 1

    sys.setprofile(profile)


if "BENCH_GATE_CALLS" in os.environ:
    _count_into(Path(os.environ["BENCH_GATE_CALLS"]) / str(os.getpid()))
