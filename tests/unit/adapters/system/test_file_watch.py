"""Polling of files: what counts as a change, and when it is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from ibex.adapters.system.file_watch import MAX_STATS_PER_S, RETRY_S, SETTLE_S, FileWatch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass
class File:
    """A watched file, whose content is refused if it is empty."""

    path: Path
    in_use: str
    name: str = "X_FILE"
    reads: int = 0

    @property
    def paths(self) -> tuple[str, ...]:
        """Its only path."""
        return (str(self.path),)

    async def reload(self) -> bool:
        """Use the content."""
        self.reads += 1
        content = self.path.read_text() if self.path.exists() else ""
        if not content:
            raise ValueError("empty")
        is_new, self.in_use = content != self.in_use, content
        return is_new


@dataclass
class Watched:
    """A watch of one file. Sleeping takes no time, but calls ``while_settling`` once."""

    file: File
    outcomes: list[str] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    while_settling: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        self.watch = FileWatch([self.file], self, poll_s=1.0, sleep=self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.while_settling()
        self.while_settling = lambda: None

    def reloaded(self, name: str) -> None:
        """Record it."""
        self.outcomes.append(f"{name} used")

    def refused(self, name: str, reason: str) -> None:
        """Record it."""
        self.outcomes.append(f"{name} refused: {reason}")


@pytest.fixture
async def watched(tmp_path: Path) -> Watched:
    """A file whose content is in use, after the first poll."""
    path = tmp_path / "secret"
    path.write_text("old")
    watched = Watched(File(path, "old"))
    await watched.watch.poll()
    return watched


async def test_a_file_that_does_not_change_is_read_once(watched: Watched) -> None:
    """The first poll reads it, since it may have changed after the settings were read. Later ones only look."""
    for _ in range(3):
        await watched.watch.poll()

    assert (watched.file.reads, watched.outcomes, watched.slept) == (1, [], [SETTLE_S])


async def test_a_changed_file_is_used(watched: Watched) -> None:
    """It makes no difference whether it is written, replaced, or reached through another symbolic link."""
    watched.file.path.write_text("written")
    await watched.watch.poll()
    other = watched.file.path.with_name("other")
    other.write_text("replaced")
    other.replace(watched.file.path)
    await watched.watch.poll()
    other.write_text("linked")
    link = watched.file.path.with_name("link")
    link.symlink_to(other)
    link.replace(watched.file.path)
    await watched.watch.poll()

    assert watched.file.in_use == "linked"
    assert watched.outcomes == ["X_FILE used"] * 3


async def test_a_file_is_not_read_while_it_is_written(watched: Watched) -> None:
    """A poll that sees it change again leaves it to the next poll."""
    watched.file.path.write_text("ha")
    watched.while_settling = lambda: watched.file.path.write_text("half and half")
    await watched.watch.poll()
    assert watched.file.in_use == "old"

    await watched.watch.poll()
    assert watched.file.in_use == "half and half"


async def test_a_file_that_cannot_be_used_is_reported_once_and_tried_again(watched: Watched) -> None:
    """The server may not know a new password yet. Its file is tried again without another change."""
    watched.file.path.write_text("")
    for _ in range(int(RETRY_S) * 3):
        await watched.watch.poll()
    assert watched.outcomes == ["X_FILE refused: empty"]
    assert watched.file.reads == pytest.approx(1 + 1 + 2, abs=1)
    assert watched.file.in_use == "old"

    watched.file.path.unlink()
    await watched.watch.poll()
    watched.file.path.write_text("new")
    await watched.watch.poll()
    assert watched.outcomes[-1] == "X_FILE used"


async def test_many_files_are_polled_less_often(tmp_path: Path) -> None:
    """A watch makes a few calls a second, whatever the number of files. Without files it ends."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if seconds != SETTLE_S:
            raise InterruptedError

    path = tmp_path / "secret"
    path.write_text("old")
    files = [File(path, "old") for _ in range(10)]
    observer = Watched(files[0])
    with pytest.raises(InterruptedError):
        await FileWatch(files, observer, sleep=sleep).run()
    await FileWatch([], observer, sleep=sleep).run()

    assert slept == [SETTLE_S, 10 / MAX_STATS_PER_S]
