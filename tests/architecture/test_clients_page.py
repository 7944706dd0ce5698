"""docs/clients.md names the versions that ``make clients`` installs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clients.install import versions

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"


@pytest.mark.parametrize(("package", "version"), versions().items())
def test_the_page_names_the_pinned_version(package: str, version: str) -> None:
    """A new pin requires a new run, and its result on the page."""
    name = package.partition(":")[2]

    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert f"{name} {version}" in PAGE.read_text()
