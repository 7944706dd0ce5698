"""Tests of the writer thread: groups of appends, errors, and stopping."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.journal_entries import new_exchange
from ibex.adapters.journal.encoding import encode
from ibex.adapters.journal.store import ROWS_PER_INSERT, Span
from ibex.adapters.journal.writer import Append, Group, Writer, unavailable
from ibex.adapters.system.ids import SystemIds
from ibex.domain.record.journal import JournalFullError, JournalUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ibex.adapters.journal.store import Store


def a_writer(path: Path, groups: list[Group]) -> Writer:
    """Return a writer that has not been started."""
    return Writer(path, SystemIds(), full_sync=False, on_group=groups.append)


def an_append(done: Callable[[JournalUnavailableError | None], None]) -> Append:
    """Return an append of a new exchange."""
    exchange = new_exchange()
    return Append(exchange, encode(exchange), done)


async def test_queued_appends_are_grouped(tmp_path: Path) -> None:
    """A group has at most ``ROWS_PER_INSERT`` appends. Each is reported after ``on_group``."""
    groups: list[Group] = []
    groups_before: list[int] = []
    writer = a_writer(tmp_path / "journal.sqlite", groups)
    for _ in range(300):
        writer.append(an_append(lambda _: groups_before.append(sum(bool(group.appends) for group in groups))))
    writer.start()
    await writer.stop()
    assert groups_before == [1] * ROWS_PER_INSERT + [2] * (300 - ROWS_PER_INSERT)
    assert [group.appended for group in groups if group.appends] == [
        Span(1, ROWS_PER_INSERT),
        Span(ROWS_PER_INSERT + 1, 300),
    ]
    assert groups[-1].snapshot is not None
    assert groups[-1].snapshot.last_position == 300


async def test_an_error_only_fails_its_own_call(tmp_path: Path) -> None:
    """The error does not contain the original message, and the thread processes later calls."""
    writer = a_writer(tmp_path / "journal.sqlite", [])
    writer.start()

    def fail(store: Store) -> None:
        raise sqlite3.OperationalError(f"canary {store.last_position}")

    with pytest.raises(JournalUnavailableError, match="OperationalError") as raised:
        await writer.call(fail)
    assert "canary" not in str(raised.value)
    assert await writer.call(lambda store: store.last_position) == 0
    await writer.stop()


async def test_stopping_processes_the_queue_first(tmp_path: Path) -> None:
    """No queued append is lost."""
    writer = a_writer(tmp_path / "journal.sqlite", [])
    writer.start()
    outcomes: list[JournalUnavailableError | None] = []
    writer.append(an_append(outcomes.append))
    await writer.stop()
    assert outcomes == [None]


async def test_a_report_that_raises_does_not_affect_others_of_its_group(tmp_path: Path) -> None:
    """The event loop's handler gets the exception, and later groups are reported too."""
    writer = a_writer(tmp_path / "journal.sqlite", [])
    outcomes: list[JournalUnavailableError | None] = []
    bugs: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: bugs.append(context["exception"]))
    bug = RuntimeError("a bug")

    def fail(_: JournalUnavailableError | None) -> None:
        raise bug

    for done in (fail, outcomes.append):
        writer.append(an_append(done))
    writer.start()
    async with asyncio.timeout(10):
        await writer.call(lambda store: store.last_position)
        writer.append(an_append(outcomes.append))
        await writer.stop()
    assert (bugs, outcomes) == ([bug], [None, None])


def test_an_error_contains_the_name_of_its_cause_but_no_message() -> None:
    """An exception without a SQLite error name is named by its type."""
    said = str(unavailable(ValueError("canary"), Path("/var/journal")))
    assert said == "the journal in /var/journal cannot be used (ValueError)"


@pytest.mark.parametrize(
    ("number", "full"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EACCES, False), (errno.ENOTDIR, False)]
)
def test_a_full_disk_differs_from_an_invalid_path(number: int, *, full: bool) -> None:
    """The first can recover, the second needs an operator. Both name the journal's directory."""
    told = unavailable(OSError(number, os.strerror(number), "/canary"), Path("/var/journal"))
    assert isinstance(told, JournalFullError) is full
    assert str(told) == f"the journal's directory /var/journal cannot be used ({os.strerror(number)})"
    assert "canary" not in str(told)


def test_sqlite_errors_of_the_disk_count_as_a_full_journal(tmp_path: Path) -> None:
    """A file that is not a database does not count as a full journal."""
    (tmp_path / "no-database").write_text("x" * 4_096)
    with sqlite3.connect(tmp_path / "no-database") as none, pytest.raises(sqlite3.Error) as not_ours:
        none.execute("SELECT * FROM sqlite_master")
    none.close()
    small = sqlite3.connect(tmp_path / "small", isolation_level=None)
    small.execute("PRAGMA max_page_count = 2")
    small.execute("CREATE TABLE t (x)")
    with pytest.raises(sqlite3.Error) as no_room:
        small.execute("INSERT INTO t VALUES (zeroblob(100000))")
    small.close()
    assert not isinstance(unavailable(not_ours.value, tmp_path), JournalFullError)
    assert isinstance(unavailable(no_room.value, tmp_path), JournalFullError)
