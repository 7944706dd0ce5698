"""Tests of the extras that ``make sbom`` lists."""

from __future__ import annotations

import pytest
from release.bill_of_materials import chosen_extras
from release.installed import CheckError

PYPROJECT = """
[project.optional-dependencies]
otel = []
http2 = []
"""


@pytest.mark.parametrize(
    ("given", "chosen"), [("", ""), ("otel", "otel"), ("otel,http2", "otel,http2"), (" otel, http2 ,", "otel,http2")]
)
def test_extras_are_separated_by_commas(given: str, chosen: str) -> None:
    """Spaces would become a part of the name of the file."""
    assert chosen_extras(given, PYPROJECT) == chosen


def test_an_unknown_extra_is_refused() -> None:
    """Without this, the list of the plain installation would have its name."""
    with pytest.raises(CheckError, match="no extra oltp; EXTRAS can contain otel, http2"):
        chosen_extras("otel,oltp", PYPROJECT)
