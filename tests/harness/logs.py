"""The log output of a process, with the configured logging."""

from __future__ import annotations

import io
import json
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog

from ibex.adapters.telemetry.logging import configure_logging

if TYPE_CHECKING:
    from collections.abc import Iterator


def write_out() -> None:
    """Write the log lines of this turn of the event loop now."""
    for handler in logging.getLogger().handlers:
        handler.flush()


@contextmanager
def logging_to(stream: Any, level: str = "info") -> Iterator[None]:
    """Log to a stream, and restore the process's logging afterwards."""
    root = logging.getLogger()
    handlers, before = root.handlers, root.level
    configure_logging(level, stream)
    try:
        yield
    finally:
        write_out()
        root.handlers = handlers
        root.setLevel(before)
        structlog.reset_defaults()
        for name in ("httpx", "httpcore", "asyncio"):
            logging.getLogger(name).setLevel(logging.NOTSET)
        logging.getLogger("uvicorn.access").disabled = False


@contextmanager
def logged(level: str = "info") -> Iterator[list[dict[str, Any]]]:
    """Yield a list that holds, after the block, the lines that were logged in it."""
    stream = io.StringIO()
    lines: list[dict[str, Any]] = []
    with logging_to(stream, level):
        yield lines
    lines.extend(map(json.loads, stream.getvalue().splitlines()))
