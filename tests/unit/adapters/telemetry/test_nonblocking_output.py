"""Tests of output that never blocks. It buffers lines for a slow reader, and drops them beyond a limit."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from typing import TYPE_CHECKING

import pytest

from ibex.adapters.telemetry.nonblocking_output import MAX_BUFFERED_BYTES, NonblockingOutput

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LINE = b"x" * 999 + b"\n"
MANY = 200


@pytest.fixture
def pipe() -> Iterator[list[int]]:
    """A pipe: the read end and the write end, each -1 once it is closed."""
    ends = list(os.pipe())
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, 4_096)
    yield ends
    for end in ends:
        if end >= 0:
            os.close(end)


def read_all(descriptor: int, output: NonblockingOutput) -> bytes:
    """Read until the buffer is written, and return everything."""
    os.set_blocking(descriptor, False)
    text = b""
    while True:
        done = output.write_waiting()
        try:
            text += os.read(descriptor, 1 << 20)
        except BlockingIOError:
            if done:
                return text


def test_lines_for_a_full_pipe_are_written_later(pipe: list[int]) -> None:
    """All lines arrive whole and in order. The descriptor's flags do not change."""
    output = NonblockingOutput(pipe[1])
    flags = fcntl.fcntl(pipe[1], fcntl.F_GETFL)
    lines = [b"%d %b" % (number, LINE) for number in range(MANY)]

    assert not output.write(*lines)

    assert fcntl.fcntl(pipe[1], fcntl.F_GETFL) == flags
    assert read_all(pipe[0], output) == b"".join(lines)
    assert output.dropped == 0
    output.close()


def test_the_buffer_is_bounded(pipe: list[int]) -> None:
    """Further lines are dropped and counted. Only whole lines are written."""
    output = NonblockingOutput(pipe[1])
    count = 3 * MAX_BUFFERED_BYTES // len(LINE)
    for _ in range(count):
        output.write(LINE)

    text = read_all(pipe[0], output)

    assert len(text) <= MAX_BUFFERED_BYTES + 8_192
    assert text == LINE * (len(text) // len(LINE))
    assert output.dropped == count - len(text) // len(LINE) > 0
    assert output.write(LINE)
    output.close()


def test_a_line_longer_than_the_pipe_stays_in_one_piece(pipe: list[int]) -> None:
    """The rest of the line is written before any other line."""
    output = NonblockingOutput(pipe[1])
    long = b"y" * 100_000 + b"\n"
    output.write(LINE, long)
    output.write(LINE)
    assert read_all(pipe[0], output) == LINE + long + LINE
    output.close()


def test_lines_for_a_closed_reader_are_dropped(pipe: list[int]) -> None:
    """Writing raises no error and buffers nothing."""
    output = NonblockingOutput(pipe[1])
    os.close(pipe[0])
    pipe[0] = -1
    assert output.write(LINE, LINE)
    assert output.write(LINE * 10)
    assert output.dropped == 12
    output.close()


def test_a_pipe_of_another_user_is_polled_before_each_write(pipe: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe cannot be opened again, so its own descriptor is used."""

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    output = NonblockingOutput(pipe[1])
    monkeypatch.undo()
    lines = [b"%d %b" % (number, LINE) for number in range(MANY)]
    assert not output.write(*lines)
    assert read_all(pipe[0], output) == b"".join(lines)
    output.close()


def test_lines_for_a_socket_are_buffered_until_it_is_read() -> None:
    """The journal of systemd is such a socket. Lines are dropped after its reader has closed it."""
    reader, writer = socket.socketpair()
    with reader, writer:
        output = NonblockingOutput(writer.fileno())
        lines = [b"%d %b" % (number, LINE) for number in range(1_000)]
        output.write(*lines)
        assert read_all(reader.fileno(), output) == b"".join(lines)
        reader.close()
        assert output.write(LINE)
        assert output.dropped == 1
        output.close()


def test_lines_for_a_file_are_written_directly(tmp_path: Path) -> None:
    """A file accepts all lines at once."""
    with (tmp_path / "log").open("ab") as file:
        output = NonblockingOutput(file.fileno())
        assert output.write(*[LINE] * MANY)
        output.close()
    assert (tmp_path / "log").read_bytes() == LINE * MANY
