"""The command line."""

from ibex.entrypoints.cli.main import main

__all__ = ["main"]
