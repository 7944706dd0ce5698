"""What `ibex doctor` shows of what was found, and its exit code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ibex.entrypoints.diagnosis import Examination, Result, Verdict, ok

if TYPE_CHECKING:
    from harness.cli_scene import CliScene


def examination(name: str, result: Result) -> Examination:
    """Return an examination that comes out so."""

    async def look() -> Result:
        return result

    return Examination(name, look, "Do this.")


WELL = examination("PostgreSQL", ok("it answers"))
ABSENT = examination("Redis", Result(Verdict.ABSENT, "not set"))
ADVICE = examination("proxy", Result(Verdict.ADVICE, "almost", "Do that."))
ILL = [examination(name, Result(Verdict.FAILED, "not there", "Start it.")) for name in ("one", "other")]


def test_where_nothing_is_wrong_it_says_so(ibex: CliScene) -> None:
    """A line a thing; what is absent, and advice, are no failures."""
    ibex.examinations = [WELL, ABSENT, ADVICE]

    done = ibex.run("doctor")

    assert done.code == 0
    assert done.out.splitlines() == [
        "ok      PostgreSQL  it answers",
        "absent  Redis       not set",
        "advice  proxy       almost",
        "        → Do that.",
        "",
        "Nothing is wrong.",
    ]


def test_what_fails_is_the_exit_code(ibex: CliScene) -> None:
    """What to do is said once where it is the same for several."""
    ibex.examinations = [WELL, *ILL]

    done = ibex.run("doctor")

    assert done.code == 1
    assert done.out.splitlines()[1:] == [
        "failed  one         not there",
        "        → Start it.",
        "failed  other       not there",
        "",
        "2 of 3 failed.",
    ]


@pytest.mark.parametrize(("found", "code"), [([WELL, ADVICE], 0), ([WELL, *ILL], 1)])
def test_programs_get_one_document(ibex: CliScene, found: list[Examination], code: int) -> None:
    """With the same exit codes."""
    ibex.examinations = found

    done = ibex.run("doctor", "--json")

    told = json.loads(done.out)
    assert (done.code, told["healthy"]) == (code, code == 0)
    assert set(told["findings"][0]) == {"name", "verdict", "said", "remedy", "took_ms"}
    assert [finding["name"] for finding in told["findings"]] == [examination.name for examination in found]


def test_a_wrong_setting_is_named_before_anything_is_looked_at(ibex: CliScene) -> None:
    """As by every command: exit code 2."""
    ibex.examinations = [WELL]
    ibex.environ["IBEX_PORT"] = "high"

    done = ibex.run("doctor")

    assert (done.code, done.out) == (2, "")
    assert "IBEX_PORT is 'high'" in done.err
