"""Makes ``python -m ibex.entrypoints.cli`` equivalent to ``ibex``."""

import sys

from ibex.entrypoints.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
