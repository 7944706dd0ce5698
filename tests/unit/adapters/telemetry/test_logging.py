"""Tests that logs are JSON lines without exception messages."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import select
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
import structlog

from harness.logs import logging_to, write_out
from ibex.adapters.telemetry.current_request import CURRENT, CurrentRequest
from ibex.adapters.telemetry.logging import configure_logging, describe, write_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CANARY = "sk-canary-91"


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Restore the process's logging configuration afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    for name in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.getLogger("uvicorn.access").disabled = False


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """Return the logged lines."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def configured(level: str = "info") -> io.StringIO:
    """Configure logging to a new stream, and return the stream."""
    stream = io.StringIO()
    configure_logging(level, stream)
    return stream


def secretive() -> None:
    """Raise an exception with a secret in its message and in that of its cause."""
    secret = {"token": CANARY}
    try:
        secret[f"another {CANARY}"]
    except KeyError as error:
        raise RuntimeError(f"{CANARY} {secret}") from error


def test_lines_of_ibex_and_of_libraries_have_the_same_fields() -> None:
    """Each line has an event, a level and a time in UTC. Lines of libraries have the logger's name as source."""
    stream = configured()

    structlog.get_logger().info("ours", count=3, who=UUID(int=5))
    logging.getLogger("somebody").warning("theirs %d", 4)

    ours, theirs = lines(stream)
    assert (ours["event"], ours["level"], ours["count"], ours["who"]) == ("ours", "info", 3, str(UUID(int=5)))
    assert (theirs["event"], theirs["level"], theirs["source"]) == ("theirs 4", "warning", "somebody")
    assert ours["timestamp"].endswith("Z")
    assert theirs["timestamp"].endswith("Z")


def test_every_line_of_a_request_has_its_ids() -> None:
    """This includes lines of libraries. Lines outside of a request have no ids."""
    stream = configured()
    token = CURRENT.set(CurrentRequest(UUID(int=7), "ab" * 16))
    try:
        structlog.get_logger().info("ours")
        logging.getLogger("somebody").info("theirs")
    finally:
        CURRENT.reset(token)
    structlog.get_logger().info("outside")

    ours, theirs, outside = lines(stream)
    assert (ours["request_id"], ours["trace_id"]) == (str(UUID(int=7)), "ab" * 16)
    assert theirs["request_id"] == str(UUID(int=7))
    assert "request_id" not in outside


def test_an_exception_is_logged_without_its_message() -> None:
    """Lines of IBEX and of libraries have the types and frames of the exception and its cause, but no values."""
    stream = configured()
    try:
        secretive()
    except RuntimeError as error:
        structlog.get_logger().exception("ours")
        structlog.get_logger().error("ours", exc_info=error)
        logging.getLogger("uvicorn.error").exception("theirs")

    assert CANARY not in stream.getvalue()
    for line in lines(stream):
        outer, inner = line["exception"]
        assert (outer["type"], inner["type"]) == ("RuntimeError", "KeyError")
        assert outer["frames"][-1].endswith("secretive")
        assert "test_logging.py:" in outer["frames"][-1]


async def test_an_exception_of_a_task_is_logged_without_its_message() -> None:
    """The event loop would log the repr of the task, which contains that of the exception."""
    stream = configured()

    async def fail() -> None:
        raise RuntimeError(CANARY)

    task = asyncio.create_task(fail())
    await asyncio.wait([task])
    del task

    assert CANARY not in stream.getvalue()
    (line,) = lines(stream)
    assert line["event"] == "Task exception was never retrieved"
    assert line["exception"][0]["type"] == "RuntimeError"


def test_objects_are_not_logged_by_their_repr() -> None:
    """A repr could contain a secret."""

    class Holder:
        def __repr__(self) -> str:
            return CANARY

    stream = configured()
    structlog.get_logger().info("ours", holder=Holder())

    assert CANARY not in stream.getvalue()
    assert lines(stream)[0]["holder"].startswith("<")


def test_lines_below_the_level_are_not_written() -> None:
    """This applies to lines of IBEX and of libraries. Uvicorn's access lines are never written."""
    stream = configured("warning")
    structlog.get_logger().info("ours")
    logging.getLogger("somebody").info("theirs")
    logging.getLogger("uvicorn.access").error("GET /")
    assert lines(stream) == []

    chatty = configured("debug")
    logging.getLogger("httpx").info("HTTP Request: POST https://provider.test/?key=secret")
    structlog.get_logger().debug("ours")
    assert [line["event"] for line in lines(chatty)] == ["ours"]


def test_a_second_configuration_replaces_the_first() -> None:
    """The new stream gets all further lines, and the old stream gets none."""
    first = configured()
    second = configured()

    structlog.get_logger().info("ours")
    logging.getLogger("somebody").info("theirs")

    assert lines(first) == []
    assert len(lines(second)) == 2


def test_a_long_chain_of_causes_is_truncated() -> None:
    """The length of a line is bounded, even for infinite recursion."""

    def deep(levels: int) -> int:
        try:
            return int("x") if levels == 0 else deep(levels - 1)
        except ValueError as error:
            raise ValueError from error

    def endless() -> None:
        endless()

    with pytest.raises(ValueError, match=r"^$") as chained:
        deep(20)
    with pytest.raises(RecursionError) as recursive:
        endless()

    assert len(describe(chained.value)) == 8
    assert [len(cause["frames"]) for cause in describe(recursive.value)] == [30]


class FullDisk(io.StringIO):
    """A stream on a full disk."""

    def write(self, _text: str) -> int:
        """Raise like a file on a full disk."""
        raise OSError(28, "No space left on device")


def test_an_encoded_line_is_written_unchanged(tmp_path: Path) -> None:
    """The line keeps its order among the other lines, both in a file and in a text stream."""
    stream = io.StringIO()
    path = tmp_path / "log"
    with path.open("w", encoding="utf-8") as file:
        for output in (stream, file):
            with logging_to(output):
                structlog.get_logger().info("one")
                write_line(lambda: b'{"event":"two"}\n')
                logging.getLogger("somebody").info("three")

    for text in (stream.getvalue(), path.read_text()):
        assert [json.loads(line)["event"] for line in text.splitlines()] == ["one", "two", "three"]


class CountingFile(io.BytesIO):
    """A file that counts its writes."""

    writes = 0

    def write(self, data: Any, /) -> int:
        """Count the write."""
        self.writes += 1
        return super().write(data)


async def test_the_lines_of_one_loop_iteration_are_written_together() -> None:
    """One call writes them all. Lines of libraries are written at once and keep their position."""
    file = CountingFile()
    with logging_to(io.TextIOWrapper(file, write_through=True)):
        for number in range(3):
            write_line(partial(b'{"event":%d}\n'.__mod__, number))
        assert file.writes == 0
        await asyncio.sleep(0)
        assert file.writes == 1
        write_line(lambda: b'{"event":3}\n')
        structlog.get_logger().info("four")
        text = file.getvalue().decode()
    assert [json.loads(line)["event"] for line in text.splitlines()] == [0, 1, 2, 3, "four"]


class Pipe(io.BytesIO):
    """A pipe that accepts only one piece of ``PIPE_BUF`` bytes at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: Any, /) -> int:
        """Record the piece."""
        self.writes.append(bytes(data))
        return len(data)


async def test_lines_are_written_in_pieces_of_at_most_pipe_buf_bytes() -> None:
    """Longer pieces could interleave with the output of other workers. Only a single line may be longer."""
    pipe = Pipe()
    lines = [b'{"event":"%b"}\n' % (b"x" * size) for size in (10, 4_000, 4_080, 90, 3_000, 1_000, 9_000, 10, 10)]
    with logging_to(io.TextIOWrapper(io.BufferedWriter(pipe), write_through=True)):
        for line in lines:
            write_line(partial(bytes, line))
        await asyncio.sleep(0)

    assert b"".join(pipe.writes) == b"".join(lines)
    assert all(written.endswith(b"\n") for written in pipe.writes)
    assert all(len(written) <= select.PIPE_BUF or written in lines for written in pipe.writes)


def test_a_full_disk_raises_no_error_in_the_caller(capsys: pytest.CaptureFixture[str]) -> None:
    """This applies to IBEX and to libraries. Nothing is written to another stream instead."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    try:
        configure_logging("info", FullDisk())
        structlog.get_logger(source="test").info("one")
        logging.getLogger("somebody").warning("two")
        write_line(lambda: b"{}\n")
    finally:
        root.handlers = handlers
        root.setLevel(level)

    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("text", ["\x1b]52;c;x\x07", "\x9b2J", "\x7f", "\u202e", "\U0001f600 \u6f22"])
def test_all_lines_are_ascii(text: str) -> None:
    """All other characters are escaped."""
    stream = configured()
    structlog.get_logger().info("ours", text=text)
    logging.getLogger("somebody").warning("theirs %s", text)
    write_line(lambda: b'{"event":"' + text.encode() + b'"}\n' if text.isprintable() else b"{}\n")
    write_out()

    said = stream.getvalue()
    assert said.isascii()
    assert said.replace("\n", "").isprintable()
    assert lines(stream)[0]["text"] == text
    assert lines(stream)[1]["event"] == f"theirs {text}"
