"""Tests of the slots of the in-flight log."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from ibex.adapters.journal.in_flight_log import SLOT_BYTES, InFlightLog

if TYPE_CHECKING:
    from pathlib import Path


def entries_in(path: Path) -> list[bytes]:
    """Return the entries that the next process reads."""
    file = InFlightLog(path)
    found = [body for _, body in file.read_entries()]
    file.close()
    return found


def test_entries_are_read_until_they_are_removed(tmp_path: Path) -> None:
    """Removal works in any order."""
    path = tmp_path / "under-way"
    file = InFlightLog(path)
    assert file.read_entries() == []
    ids = [uuid4() for _ in range(5)]
    for number, exchange_id in enumerate(ids):
        assert file.write(exchange_id, b"note %d" % number)
    for number in (0, 3):
        file.remove(ids[number])
    assert entries_in(path) == [b"note 1", b"note 2", b"note 4"]
    file.close()


def test_a_released_entry_is_replaced_or_cleared(tmp_path: Path) -> None:
    """It stays until the next entry, or ``clear_released``, which does not affect an entry in its place."""
    path = tmp_path / "under-way"
    file = InFlightLog(path)
    ids = [uuid4() for _ in range(3)]
    file.write(ids[0], b"first")
    file.release(ids[0])
    assert entries_in(path) == [b"first"]
    file.write(ids[1], b"second")
    file.clear_released()
    assert entries_in(path) == [b"second"]
    file.release(ids[1])
    file.release(ids[1])
    file.clear_released()
    assert entries_in(path) == []
    for number, exchange_id in enumerate(ids):
        file.write(exchange_id, b"%d" % number)
    assert entries_in(path) == [b"0", b"1", b"2"]
    file.close()


def test_slots_are_reused(tmp_path: Path) -> None:
    """The file grows only with the maximum number of concurrent exchanges."""
    path = tmp_path / "under-way"
    file = InFlightLog(path)
    for _ in range(100):
        first, second = uuid4(), uuid4()
        file.write(first, b"a")
        file.write(second, b"b")
        file.remove(first)
        file.remove(second)
    file.close()
    assert path.stat().st_size <= 2 * SLOT_BYTES


def test_entries_of_a_former_process_can_be_adopted_or_cleared(tmp_path: Path) -> None:
    """An adopted entry is removed with its exchange, a cleared one at once."""
    path = tmp_path / "under-way"
    file = InFlightLog(path)
    file.write(uuid4(), b"a")
    file.write(uuid4(), b"b")
    file.close()
    file = InFlightLog(path)
    (first, _), (second, _) = file.read_entries()
    mine = uuid4()
    file.adopt(mine, first)
    file.clear(second)
    assert entries_in(path) == [b"a"]
    file.remove(mine)
    assert entries_in(path) == []
    file.close()


@pytest.mark.parametrize("cut", range(1, 30))
def test_an_incomplete_entry_is_ignored(cut: int, tmp_path: Path) -> None:
    """The write can end at any byte."""
    path = tmp_path / "under-way"
    file = InFlightLog(path)
    file.write(uuid4(), b"x" * 21)
    file.close()
    path.write_bytes(path.read_bytes()[:-cut])
    assert entries_in(path) == []


def test_a_damaged_entry_is_ignored(tmp_path: Path) -> None:
    """Its checksum is wrong."""
    path = tmp_path / "under-way"
    file = InFlightLog(path)
    file.write(uuid4(), b"abc")
    file.close()
    path.write_bytes(path.read_bytes().replace(b"abc", b"abd"))
    assert entries_in(path) == []


def test_an_entry_that_is_too_large_is_not_written(tmp_path: Path) -> None:
    """All slots have the same size."""
    file = InFlightLog(tmp_path / "under-way")
    assert not file.write(uuid4(), bytes(SLOT_BYTES))
    file.remove(uuid4())
    file.close()
