"""The command line (spec 13)."""

from ibex.entrypoints.cli.main import main

__all__ = ["main"]
