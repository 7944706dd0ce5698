"""Warnings about ignored variables: `ibex serve` and `ibex dev` log them at the start, and `ibex doctor` lists them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from ibex.entrypoints.foreign_variables import ignored_variables
from ibex.entrypoints.forward_proxy import ignored_proxy
from ibex.entrypoints.settings import variables
from ibex.entrypoints.tracing import tracing_problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ibex.entrypoints.settings import Settings

_LOG: Final = logging.getLogger("ibex.settings")


def ignored_in_environment(settings: Settings, environ: Mapping[str, str]) -> Sequence[str]:
    """Return a message for everything in the environment that looks like a setting of IBEX and has no effect."""
    messages = ignored_variables(environ, [variable for _, variable in variables()])
    return [*messages, *filter(None, (tracing_problem(settings), ignored_proxy(settings, environ)))]


def warn_of_environment(settings: Settings, environ: Mapping[str, str]) -> None:
    """Log each message of ``ignored_in_environment`` as a warning."""
    for message in ignored_in_environment(settings, environ):
        _LOG.warning("%s", message)
