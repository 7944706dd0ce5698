"""Epochs in a file: the reading side in the instance, the replacing side in a command."""

from __future__ import annotations

import asyncio
import logging
import stat
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from harness.memory.clock import ManualClock
from ibex.adapters.system.file_epochs import FileEpochs
from ibex.adapters.system.ids import SystemIds

if TYPE_CHECKING:
    from pathlib import Path

ORG = UUID(int=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of the file, which does not exist yet."""
    return tmp_path / "epoch"


def epochs_at(path: Path) -> FileEpochs:
    """Return the epochs of one process."""
    return FileEpochs(path, ManualClock(), SystemIds())


async def test_a_replacement_by_a_command_proves_a_change(path: Path) -> None:
    """The command does not open the file for reading. It may replace the epoch before the instance has read any."""
    with epochs_at(path) as instance:
        for _ in range(3):
            before = instance.read(ORG)
            assert await epochs_at(path).replace(ORG)
            after = instance.read(ORG)
            assert after.proves_change_since(before, before.asked_ns)
            assert not instance.read(ORG).proves_change_since(after, after.asked_ns)


def test_only_the_owner_can_read_the_file(path: Path) -> None:
    """Its mode is 0600. A second start keeps the value."""
    with epochs_at(path) as first:
        created = asyncio.run(first.read_or_create(ORG))
    with epochs_at(path) as second:
        assert second.read(ORG) == created
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_command_never_creates_the_file(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A running instance would not read a new file. The warning names the file and the time that the watch takes."""
    with epochs_at(path) as instance:
        before = asyncio.run(instance.read_or_create(ORG))
        path.unlink()

        with caplog.at_level(logging.WARNING):
            assert not asyncio.run(epochs_at(path).replace(ORG))

        assert not instance.read(ORG).proves_change_since(before, before.asked_ns)
    assert not path.exists()
    (warning,) = caplog.messages
    assert warning == (
        f"Cannot write {path} (No such file or directory)."
        " A change is in force within 5 s instead of at the next request."
    )


async def test_an_epoch_that_cannot_be_read_is_unknown(path: Path) -> None:
    """It proves nothing, so the watch decides. This also applies to a file that is not open, or has been closed."""
    closed = epochs_at(path)
    assert not closed.read(ORG).was_read
    with closed:
        await closed.read_or_create(ORG)
    assert not (await closed.read_or_create(ORG)).was_read


def test_a_truncated_file_has_no_epoch(path: Path) -> None:
    """An absent epoch proves nothing either. The next fetch creates another."""
    with epochs_at(path) as instance:
        before = asyncio.run(instance.read_or_create(ORG))
        path.write_bytes(b"short")
        lost = instance.read(ORG)
        assert (lost.value, lost.was_read) == (None, True)
        assert not lost.proves_change_since(before, before.asked_ns)
        assert asyncio.run(instance.read_or_create(ORG)).value not in {None, before.value}
