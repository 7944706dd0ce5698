"""A file system that is soon full, where mounting is permitted."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """Where it is mounted."""

    path: Path

    def fill(self) -> None:
        """Leave no byte free."""
        with (self.path / "filling").open("ab", buffering=0) as filling:
            for size in (65_536, 4_096, 1):
                try:
                    while filling.write(b"\0" * size):
                        pass
                except OSError:
                    continue

    def make_room(self) -> None:
        """Give back what ``fill`` took."""
        (self.path / "filling").unlink()


@contextmanager
def mounted(path: Path, size_bytes: int) -> Iterator[SmallDisk | None]:
    """Mount one on a new folder, and unmount it afterwards; give None where that is not permitted."""
    path.mkdir()
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    options = ["-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(path)]
    if (
        mount is None
        or unmount is None
        or subprocess.run([mount, *options], capture_output=True, check=False).returncode
    ):
        yield None
        return
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run([unmount, "--lazy", str(path)], check=True)


@contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[SmallDisk]:
    """The same, and skip the test where it is not permitted."""
    with mounted(path, size_bytes) as disk:
        if disk is None:
            pytest.skip("no file system can be mounted here")
        yield disk
