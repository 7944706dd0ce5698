"""Logs as JSON lines on one stream: this project's own and, through the standard library's logging, everybody else's.

Exceptions are logged as types and places in the code. Their messages are not: nobody knows what is in them (spec 3).
"""

from __future__ import annotations

import asyncio
import logging
import select
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import structlog

from ibex.adapters.telemetry.current_request import CURRENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import TextIO

    from structlog.typing import EventDict, Processor, WrappedLogger

_CHATTY: Final = ("httpx", "httpcore", "asyncio")
_MOST_CAUSES: Final = 8
_MOST_FRAMES: Final = 30


def configure_logging(level: str = "info", stream: TextIO | None = None) -> None:
    """Send all logs of this process to ``stream`` (standard error by default), from ``level`` on.

    May be called again; the last call counts. The access lines of uvicorn are switched off: ``access_log`` writes ours.
    """
    shared: list[Processor] = [
        _request_ids,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _describe_exception,
    ]
    unfailing = _Unfailing(stream or sys.stderr)
    stream = cast("TextIO", unfailing)
    root = logging.getLogger()
    root.setLevel(level.upper())
    _access.output = unfailing if root.level <= logging.INFO else None
    structlog.configure(  # past the standard library's logging, which would double the price of every access line
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
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.getLogger("uvicorn.access").disabled = True


_LOST: Final = (OSError, ValueError)
"""What writing raises where there is no room any more, and where the stream was closed."""


class _Unfailing:
    """A stream that drops what it cannot write: a full disk must not fail the request that is logged."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._buffer = getattr(stream, "buffer", None)
        self._lines: list[bytes] = []

    def write(self, text: str) -> int:
        self._write_lines()
        with suppress(*_LOST):
            return self._stream.write(text)
        return 0

    def flush(self) -> None:
        self._write_lines()
        with suppress(*_LOST):
            self._stream.flush()

    def write_line(self, line: bytes) -> None:
        """Write bytes past the text layer, in which nothing waits: whoever else writes flushes at once.

        Lines of one turn of the event loop go out together, at its end: each system call lets others run, and a busy
        worker ends dozens of requests in a turn.
        """
        self._lines.append(line)
        if len(self._lines) > 1:
            return
        try:
            asyncio.get_running_loop().call_soon(self._write_lines)
        except RuntimeError:  # there is no event loop, so nobody to wait for
            self._write_lines()

    def _write_lines(self) -> None:
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        with suppress(*_LOST):
            if self._buffer is None:
                self._stream.write(b"".join(lines).decode())
                return
            for piece in _pieces(lines):
                self._buffer.write(piece)
                self._buffer.flush()


def _pieces(lines: list[bytes]) -> Iterator[bytes]:
    """Yield the lines joined, as many as a pipe that several processes share takes at once: none is torn then."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if size + len(line) > select.PIPE_BUF and piece:
            yield b"".join(piece)
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    yield b"".join(piece)


@dataclass(slots=True)
class _Access:
    """Where lines go that are written as they are; nowhere before logging is configured, or above level info."""

    output: _Unfailing | None = None


_access: Final = _Access()


def write_line(line: Callable[[], bytes]) -> None:
    """Write a line of level info, as it is made; past the processors, whose rules it must keep by itself."""
    output = _access.output
    if output is not None:
        output.write_line(line())


def describe(error: BaseException) -> list[dict[str, Any]]:
    """Return an exception and its causes, outermost first: types and frames, no message and no value."""
    described: list[dict[str, Any]] = []
    cause: BaseException | None = error
    while cause is not None and len(described) < _MOST_CAUSES:
        described.append({"type": type(cause).__qualname__, "frames": _frames(cause.__traceback__)})
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return described


def _frames(traceback: TracebackType | None) -> list[str]:
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{'/'.join(PurePath(code.co_filename).parts[-3:])}:{traceback.tb_lineno} {code.co_qualname}")
        traceback = traceback.tb_next
    return frames[-_MOST_FRAMES:]


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
    """Say whose line it is. Of asyncio's keep the first: the others show a task's repr, and in it its exception's."""
    event["source"] = event["_record"].name
    if event["source"] == "asyncio":
        event["event"] = event["event"].partition("\n")[0]
    return event


def _render(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return msgspec.json.encode(event, enc_hook=_type_name).decode()


def _type_name(value: Any) -> str:
    return f"<{type(value).__qualname__}>"  # a repr could show anything
