"""Value objects are compared by content and never changed."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from ibex.adapters.openai_api.raw_json import Member
from ibex.domain.record.exchange import Caller, Exchange
from ibex.domain.value_object import field_copier, value_object

if TYPE_CHECKING:
    from pathlib import Path

CHANGES_A_VALUE = """
from ibex.adapters.openai_api.raw_json import Member
Member("model", b"1").name = "other"
"""


def test_values_with_equal_fields_are_equal_and_have_the_same_hash() -> None:
    """They behave like any frozen dataclass."""
    assert Member("model", b"1") == Member("model", b"1") != Member("model", b"2")
    assert len({Member("model", b"1"), Member("model", b"1")}) == 1


def test_values_have_no_dictionary() -> None:
    """Fields are slots, so a value has no further attributes."""
    for kind in (Member, Caller, Exchange):
        assert not hasattr(kind, "__dict__") or "__slots__" in vars(kind)


def test_fields_with_the_same_name_are_copied() -> None:
    """Excluded fields are not copied, and no other attribute is read."""

    @value_object
    class Source:
        a: int
        b: str
        c: float
        only_here: bytes

    @value_object
    class Target:
        only_there: float
        b: str
        a: int
        c: float

    source = Source(1, "two", 3.0, b"four")
    assert field_copier(Source, Target)(source) == {"a": 1, "b": "two", "c": 3.0}
    assert field_copier(Source, Target, without=("b",))(source) == {"a": 1, "c": 3.0}


def test_changing_a_value_does_not_pass_the_type_checker(tmp_path: Path) -> None:
    """Only the type checker enforces immutability."""
    program = tmp_path / "changes.py"
    program.write_text(CHANGES_A_VALUE)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert 'Property "name" defined in "Member" is read-only' in checked.stdout
