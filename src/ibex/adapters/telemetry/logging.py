"""Logs as JSON lines on one stream: IBEX's own, and those of libraries that use the standard library's logging.

Exceptions are logged as types and stack frames, without their messages, which could contain secrets.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import structlog

from ibex.adapters.telemetry.current_request import CURRENT
from ibex.adapters.telemetry.nonblocking_output import NonblockingOutput, pieces

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import TextIO

    from structlog.typing import EventDict, Processor, WrappedLogger

_VERBOSE_LOGGERS: Final = ("httpx", "httpcore", "asyncio")
# Its warnings repeat every second what the database adapter logs once, in libpq's words.
_REPETITIVE_LOGGER: Final = "psycopg.pool"
_MAX_CAUSES: Final = 8
_MAX_FRAMES: Final = 30


def configure_logging(level: str = "info", stream: TextIO | None = None) -> None:
    """Write all logs of this process, from ``level`` up, to ``stream`` (standard error by default).

    A further call replaces the configuration. Uvicorn's access log is disabled, because ``access_log`` replaces it.
    """
    shared: list[Processor] = [
        _request_ids,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _describe_exception,
    ]
    former, log_stream = _log.stream, _LogStream(stream or sys.stderr)
    if former is not None:
        _log.dropped_before += former.dropped
        former.close()
    _log.stream = log_stream
    stream = cast("TextIO", log_stream)
    root = logging.getLogger()
    root.setLevel(level.upper())
    _log.access_lines_enabled = root.level <= logging.INFO
    structlog.configure(  # bypasses the standard library's logging, which would double the cost of a line
        processors=[*shared, _render],
        wrapper_class=structlog.make_filtering_bound_logger(root.level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_source, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _render],
        )
    )
    root.handlers = [handler]
    for name in _VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.getLogger(_REPETITIVE_LOGGER).setLevel(max(logging.ERROR, root.level))
    logging.getLogger("uvicorn.access").disabled = True


_NOT_ASCII: Final = re.compile(r"[\x7f-\U0010ffff]")
_WRITE_ERRORS: Final = (OSError, ValueError)
"""The errors of a write to a full disk (``OSError``) or to a closed stream (``ValueError``)."""
RETRY_S: Final = 0.05
"""The interval at which buffered lines are written again."""


class _LogStream:
    """A stream that never raises or blocks. It buffers lines that cannot be written, and drops them beyond a limit."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._lines: list[bytes] = []
        self._retry: asyncio.TimerHandle | None = None
        self._dropped = 0
        self._output: NonblockingOutput | None = None
        with suppress(*_WRITE_ERRORS, AttributeError):  # an in-memory stream has no descriptor
            self._output = NonblockingOutput(cast("TextIO", stream).fileno())

    @property
    def dropped(self) -> int:
        """The number of dropped lines."""
        return self._dropped + (self._output.dropped if self._output is not None else 0)

    def write(self, text: str) -> int:
        self._lines.append(text.encode("utf-8", "replace"))
        self._write_lines()
        return len(text)

    def flush(self) -> None:
        self._write_lines()

    def write_line(self, line: bytes) -> None:
        """Queue a line, and write it at the end of the current event loop iteration.

        All lines of an iteration are written with one system call, because a system call releases the interpreter lock
        and a busy worker ends dozens of requests in an iteration. The text layer is bypassed; it never buffers.
        """
        self._lines.append(line)
        if len(self._lines) > 1:
            return
        try:
            asyncio.get_running_loop().call_soon(self._write_lines)
        except RuntimeError:  # without an event loop, write at once
            self._write_lines()

    def close(self) -> None:
        """Write as much as the stream accepts without blocking, drop the rest, and detach from the stream."""
        self._write_lines()
        output, self._output = self._output, None
        if output is not None:
            self._dropped += output.dropped
            output.close()

    def _write_lines(self) -> None:
        lines, self._lines = self._lines, []
        output = self._output
        if output is None or getattr(self._stream, "closed", False):
            self._write_to_stream(lines)
        elif not output.write(*lines) and self._retry is None:
            with suppress(RuntimeError):  # without an event loop, the next line retries
                self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._write_again)

    def _write_again(self) -> None:
        self._retry = None
        self._write_lines()

    def _write_to_stream(self, lines: list[bytes]) -> None:
        try:
            for piece in pieces(lines):
                buffer = getattr(self._stream, "buffer", None)
                if buffer is not None:
                    buffer.write(piece)
                    buffer.flush()
                elif self._stream is not None:
                    self._stream.write(piece.decode())
        except _WRITE_ERRORS:
            self._dropped += len(lines)


@dataclass(slots=True)
class _Log:
    """The log output of this process. ``stream`` is None before logging is configured."""

    stream: _LogStream | None = None
    access_lines_enabled: bool = False
    dropped_before: int = 0


_log: Final = _Log()


def lines_dropped() -> int:
    """Return the number of lines that were dropped because the reader stopped reading or the disk was full."""
    return _log.dropped_before + (_log.stream.dropped if _log.stream is not None else 0)


def write_line(line: Callable[[], bytes]) -> None:
    """Write a JSON line of level info. ``line`` is only called if that level is enabled. No processor sees the line."""
    if _log.access_lines_enabled and _log.stream is not None:
        _log.stream.write_line(to_ascii(line()))


def to_ascii(line: bytes) -> bytes:
    """Return a line of JSON in ASCII, with control characters escaped, since a terminal would interpret them."""
    if line.isascii() and b"\x7f" not in line:
        return line
    return _NOT_ASCII.sub(_escape, line.decode("utf-8", "replace")).encode("ascii")


def _escape(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1] if found[0] != "\x7f" else "\\u007f"


def describe(error: BaseException) -> list[dict[str, Any]]:
    """Return an exception and its causes, outermost first, as types and frames without messages or values."""
    described: list[dict[str, Any]] = []
    cause: BaseException | None = error
    while cause is not None and len(described) < _MAX_CAUSES:
        described.append({"type": type(cause).__qualname__, "frames": _frames(cause.__traceback__)})
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return described


def _frames(traceback: TracebackType | None) -> list[str]:
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{'/'.join(PurePath(code.co_filename).parts[-3:])}:{traceback.tb_lineno} {code.co_qualname}")
        traceback = traceback.tb_next
    return frames[-_MAX_FRAMES:]


def _request_ids(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    request = CURRENT.get()
    if request is not None:
        event.setdefault("request_id", request.request_id)
        event.setdefault("trace_id", request.trace_id)
    return event


def _describe_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    raised = event.pop("exc_info", None)
    if raised is True:
        raised = sys.exc_info()
    error = raised[1] if isinstance(raised, tuple) else raised
    if isinstance(error, BaseException):
        event["exception"] = describe(error)
    return event


def _source(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Add the logger's name. Keep only the first line of asyncio's messages; the others contain an exception's repr."""
    event["source"] = event["_record"].name
    if event["source"] == "asyncio":
        event["event"] = event["event"].partition("\n")[0]
    return event


def _render(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return to_ascii(msgspec.json.encode(event, enc_hook=_type_name)).decode("ascii")


def _type_name(value: Any) -> str:
    return f"<{type(value).__qualname__}>"  # a repr could contain a secret
