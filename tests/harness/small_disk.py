"""A small file system that fills quickly, if mounting is permitted."""

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
    """A mounted file system of limited size."""

    path: Path

    def fill(self) -> None:
        """Fill the file system to the last byte."""
        with (self.path / "filling").open("ab", buffering=0) as filling:
            for size in (65_536, 4_096, 1):
                try:
                    while filling.write(b"\0" * size):
                        pass
                except OSError:
                    continue

    def make_room(self) -> None:
        """Free the space that ``fill`` used."""
        (self.path / "filling").unlink()


@contextmanager
def mounted(path: Path, size_bytes: int) -> Iterator[SmallDisk | None]:
    """Mount a file system on a new folder, and unmount it afterwards; yield None if that is not permitted."""
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
    """Mount a file system as ``mounted`` does, and skip the test if that is not permitted."""
    with mounted(path, size_bytes) as disk:
        if disk is None:
            pytest.skip("no file system can be mounted here")
        yield disk
