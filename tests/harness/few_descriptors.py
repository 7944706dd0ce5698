"""Run the command line in a process that may open at most 256 descriptors."""

from __future__ import annotations

import resource
import sys
from typing import Final

from ibex.entrypoints.cli.main import main

DESCRIPTORS: Final = 256

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    sys.exit(main())
