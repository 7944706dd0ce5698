"""Lets ``python -m ibex.entrypoints.cli`` be ``ibex``."""

import sys

from ibex.entrypoints.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
