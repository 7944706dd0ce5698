"""The command line ``ibex``."""

from ibex.entrypoints.cli.main import main

__all__ = ["main"]
