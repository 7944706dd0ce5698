"""IBEX: a proxy between applications and OpenAI's API that authenticates, limits, directs and records."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("ibex-harness")
except PackageNotFoundError:  # a source tree on sys.path without an installation
    __version__ = "0+unknown"
