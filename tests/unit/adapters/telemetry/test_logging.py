"""Logs are JSON lines that hold no exception's message."""

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
    """Leave the process's logging as it was found."""
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
    """Return what was logged."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def configured(level: str = "info") -> io.StringIO:
    """Configure logging to a stream and return that."""
    stream = io.StringIO()
    configure_logging(level, stream)
    return stream


def secretive() -> None:
    """Raise with something that nobody may read, twice over."""
    secret = {"token": CANARY}
    try:
        secret[f"another {CANARY}"]
    except KeyError as error:
        raise RuntimeError(f"{CANARY} {secret}") from error


def test_our_own_and_everybodys_lines_look_alike() -> None:
    """Event, level, time in UTC; the standard library's say whose they are."""
    stream = configured()

    structlog.get_logger().info("ours", count=3, who=UUID(int=5))
    logging.getLogger("somebody").warning("theirs %d", 4)

    ours, theirs = lines(stream)
    assert (ours["event"], ours["level"], ours["count"], ours["who"]) == ("ours", "info", 3, str(UUID(int=5)))
    assert (theirs["event"], theirs["level"], theirs["source"]) == ("theirs 4", "warning", "somebody")
    assert ours["timestamp"].endswith("Z")
    assert theirs["timestamp"].endswith("Z")


def test_every_line_of_a_request_has_its_ids() -> None:
    """Whoever writes it; outside of a request there are none."""
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


def test_an_exception_is_logged_without_what_it_says() -> None:
    """Types and places of it and of its cause, in our own lines and in others'; not one value."""
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


async def test_an_exception_that_nobody_awaited_is_logged_without_what_it_says() -> None:
    """The event loop shows the repr of the task, and in it that of the exception."""
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


def test_objects_are_not_shown_by_their_repr() -> None:
    """Nobody knows what a repr shows."""

    class Holder:
        def __repr__(self) -> str:
            return CANARY

    stream = configured()
    structlog.get_logger().info("ours", holder=Holder())

    assert CANARY not in stream.getvalue()
    assert lines(stream)[0]["holder"].startswith("<")


def test_what_is_less_severe_than_the_level_is_not_written() -> None:
    """Neither ours nor others'; the access lines of the server never."""
    stream = configured("warning")
    structlog.get_logger().info("ours")
    logging.getLogger("somebody").info("theirs")
    logging.getLogger("uvicorn.access").error("GET /")
    assert lines(stream) == []

    chatty = configured("debug")
    logging.getLogger("httpx").info("HTTP Request: POST https://provider.test/?key=secret")
    structlog.get_logger().debug("ours")
    assert [line["event"] for line in lines(chatty)] == ["ours"]


def test_configuring_again_counts() -> None:
    """The last stream gets everything, the first nothing more."""
    first = configured()
    second = configured()

    structlog.get_logger().info("ours")
    logging.getLogger("somebody").info("theirs")

    assert lines(first) == []
    assert len(lines(second)) == 2


def test_a_long_chain_of_causes_is_cut() -> None:
    """A line has a bounded length, also for endless recursion."""

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
    """A stream on which there is no room."""

    def write(self, _text: str) -> int:
        """Fail as a file does."""
        raise OSError(28, "No space left on device")


def test_a_line_that_is_made_already_is_written_as_it_is(tmp_path: Path) -> None:
    """In its turn among the others, to a file as to a stream of text."""
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
    """A file that counts how often it is written to."""

    writes = 0

    def write(self, data: Any, /) -> int:
        """Count."""
        self.writes += 1
        return super().write(data)


async def test_the_lines_of_one_turn_of_the_event_loop_are_written_together() -> None:
    """With one call; others' lines, which come at once, keep their place."""
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
    """A pipe that is full: only what it takes at once arrives in one piece."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: Any, /) -> int:
        """Remember each."""
        self.writes.append(bytes(data))
        return len(data)


async def test_lines_that_go_out_together_are_not_torn_in_a_shared_pipe() -> None:
    """Workers write to one: what is longer than a pipe takes at once would be mixed with others' lines."""
    pipe = Pipe()
    lines = [b'{"event":"%b"}\n' % (b"x" * size) for size in (10, 4_000, 4_080, 90, 3_000, 1_000, 9_000, 10, 10)]
    with logging_to(io.TextIOWrapper(io.BufferedWriter(pipe), write_through=True)):
        for line in lines:
            write_line(partial(bytes, line))
        await asyncio.sleep(0)

    assert b"".join(pipe.writes) == b"".join(lines)
    assert all(written.endswith(b"\n") for written in pipe.writes)
    assert all(len(written) <= select.PIPE_BUF or written in lines for written in pipe.writes)


def test_a_log_that_cannot_be_written_fails_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither this project's lines nor others', and nothing is written elsewhere instead."""
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
    """With escapes that say the same."""
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
