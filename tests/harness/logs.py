"""What a process logs, as it is configured to."""

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
    """Let the lines of this turn of the event loop be written now."""
    for handler in logging.getLogger().handlers:
        handler.flush()


@contextmanager
def logging_to(stream: Any, level: str = "info") -> Iterator[None]:
    """Log to a stream; afterwards the process's logging is as it was found."""
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
    """Give a list that holds, once the block is over, the lines that were logged in it."""
    stream = io.StringIO()
    lines: list[dict[str, Any]] = []
    with logging_to(stream, level):
        yield lines
    lines.extend(map(json.loads, stream.getvalue().splitlines()))
