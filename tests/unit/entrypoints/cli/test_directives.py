"""The commands for an agent's directive."""

from __future__ import annotations

import hashlib
import io
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from ibex.entrypoints.cli.output import display

if TYPE_CHECKING:
    from pathlib import Path

    from harness.cli_scene import CliScene

TEXT = "Answer in rhyme."


@pytest.fixture(autouse=True)
def _agent(ibex: CliScene) -> None:
    """Create an agent."""
    ibex.run("org", "create", "acme")
    ibex.run("agent", "create", "one")


def test_a_directive_is_set_and_shown(ibex: CliScene) -> None:
    """``set`` returns the receipt without the text. ``show`` returns both."""
    made = ibex.run("directive", "set", "one", TEXT, "--mode", "user_prepend", "--author", "me", "--json").json
    shown = ibex.run("directive", "show", "one", "--json").json

    assert (made["number"], made["mode"], made["author"], made["bytes"]) == (1, "user_prepend", "me", len(TEXT))
    assert made["receipt"] == f"1@{made['sha256'][:8]}"
    assert shown == {**made, "text": TEXT}
    assert ibex.run("directive", "show", "one").out.endswith(f"\n\n{TEXT}\n")
    assert TEXT not in ibex.run("directive", "history", "one").out


@pytest.mark.parametrize("from_file", [True, False])
def test_a_text_is_read_from_a_file_or_standard_input(
    ibex: CliScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, from_file: bool
) -> None:
    """Every byte is kept, including the last newline."""
    text = "Zwei Zeilen:\nä ö ü\n"
    (tmp_path / "directive.txt").write_text(text, encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO(text))

    source = ["--file", str(tmp_path / "directive.txt")] if from_file else ["-"]
    ibex.run("directive", "set", "one", *source)

    assert ibex.run("directive", "show", "one", "--json").json["text"] == text


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["set", "one"], 2, "Give the text"),
        (["set", "one", "text", "--file", "-"], 2, "either as an argument or with --file"),
        (["set", "one", ""], 1, "1 to 32,768 bytes"),
        (["set", "one", "x" * 32_769], 1, "1 to 32,768 bytes"),
        (["set", "one", "--file", "/dev/zero"], 2, "/dev/zero is too long. A directive has 1 to 32,768 bytes."),
        (["set", "one", "--file", "/bin/true"], 2, "is not valid UTF-8"),
        (["set", "nobody", "text"], 1, "no agent"),
        (["show", "one"], 1, "The agent 'one' has no directive. Set one with `ibex directive set one TEXT`."),
        (["rollback", "one", "1"], 1, "has no directive"),
        (["rollback", "one", "0"], 2, "0"),
        (["deactivate", "one"], 1, "has no directive"),
        (["diff", "one"], 1, "has no directive"),
        (["diff", "one", "0"], 2, "0"),
    ],
)
def test_an_invalid_command_is_an_error(ibex: CliScene, arguments: list[str], code: int, said: str) -> None:
    """The agent still has no directive afterwards."""
    done = ibex.run("directive", *arguments)

    assert done.code == code
    assert said in done.err
    assert ibex.run("directive", "history", "one").out == (
        "The agent 'one' has no directive. Set one with `ibex directive set one TEXT`.\n"
    )


def test_a_rollback_keeps_the_history(ibex: CliScene) -> None:
    """It restores text and mode of the version. Deactivating keeps its number."""
    ibex.run("directive", "set", "one", "first", "--mode", "system_append")
    ibex.run("directive", "set", "one", "second", "--mode", "user_prepend")
    ibex.run("directive", "set", "one", "second")

    back = ibex.run("directive", "rollback", "one", "1", "--json").json
    off = ibex.run("directive", "deactivate", "one", "--json").json

    assert (back["number"], back["mode"], back["is_active"]) == (1, "system_append", True)
    assert (off["number"], off["is_active"]) == (1, False)
    rows = ibex.run("directive", "history", "one", "--json").json
    assert [(row["number"], row["mode"]) for row in rows] == [(2, "user_prepend"), (1, "system_append")]


def test_the_history_marks_the_version_in_force(ibex: CliScene) -> None:
    """It shows since when. After a rollback this is an older version, after deactivation none."""

    def marks() -> list[tuple[int, bool, str | None]]:
        rows = ibex.run("directive", "history", "one", "--json").json
        return [(row["number"], row["in_force"], row["in_force_since"]) for row in rows]

    def column() -> list[str]:
        heading, *lines = ibex.run("directive", "history", "one").out.splitlines()
        begins, ends = heading.index("in force"), heading.index("receipt")
        return [line[begins:ends].strip() for line in lines]

    for text in ("first", "second"):
        ibex.run("directive", "set", "one", text)
    ibex.clock.advance(timedelta(hours=1))
    ibex.run("directive", "rollback", "one", "1")
    now = ibex.clock.now()

    assert marks() == [(2, False, None), (1, True, now.isoformat().replace("+00:00", "Z"))]
    assert column() == ["-", f"since {display(now)}"]
    ibex.run("directive", "deactivate", "one")
    assert [in_force for _, in_force, _ in marks()] == [False, False]
    assert column() == ["-", f"off since {display(now)}"]


def test_a_diff_after_a_rollback_uses_the_version_in_force_before(ibex: CliScene) -> None:
    """This is not the version with the preceding number. The first line names both."""
    for text in ("first", "second", "third"):
        ibex.run("directive", "set", "one", text)
    ibex.run("directive", "rollback", "one", "1")

    lines = ibex.run("directive", "diff", "one").out.splitlines()

    assert lines[0] == "Comparing version 3, which was in force before, with version 1, which is in force now."
    assert "-third" in lines
    assert "+first" in lines
    assert ibex.run("directive", "diff", "one", "--json").json["basis"] == "in_force_before"
    assert ibex.run("directive", "diff", "one", "2").out.startswith("--- version 2@")
    assert ibex.run("directive", "show", "one", "--json").json["previous"] == 3
    assert (
        ibex.run("directive", "rollback", "one", "7").err == "ibex: The directive has no version 7; there are 1 to 3.\n"
    )


class Terminal(io.StringIO):
    """Standard output that is a terminal."""

    def isatty(self) -> bool:
        """Return true."""
        return True


def test_a_diff_compares_two_versions(ibex: CliScene) -> None:
    """It is a unified diff with a heading for each version, or reports that the texts are equal."""
    for text in ("Be brief.\n", "Be brief.\nBe kind.\n", "Be brief.\n"):
        ibex.run("directive", "set", "one", text, "--author", "me")

    lines = ibex.run("directive", "diff", "one", "1", "2").out.splitlines()
    found = ibex.run("directive", "diff", "one", "--json").json

    assert [line.partition(" of ")[0] for line in lines[:2]] == [
        f"--- version {found['after']['receipt'].replace('3@', '1@')} (system_first)",
        f"+++ version {found['before']['receipt']} (system_first)",
    ]
    assert lines[2:] == ["@@ -1 +1,2 @@", " Be brief.", "+Be kind."]
    assert (found["before"]["number"], found["after"]["number"]) == (2, 3)
    assert (found["added"], found["removed"], found["lines"][-1]) == (0, 1, "-Be kind.")
    assert ibex.run("directive", "diff", "one", "1").out.endswith("The texts are equal.\n")
    assert ibex.run("directive", "diff", "one", "1", "4").code == 1


def test_a_missing_newline_at_the_end_is_shown_only_if_it_differs(ibex: CliScene) -> None:
    """A text from the command line has none, so a note about it would be in most comparisons."""
    for text in ("Be brief.", "Be kind.", "Be kind.\n"):
        ibex.run("directive", "set", "one", text)

    assert "No newline" not in ibex.run("directive", "diff", "one", "1", "2").out
    assert "+Be kind.\n" in ibex.run("directive", "diff", "one", "1", "2").out
    assert "-Be kind.\n\\ No newline at end of file\n+Be kind.\n" in ibex.run("directive", "diff", "one", "2", "3").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("set one brief", "one: version 3@{new} is in force (before: 2@{second})."),
        ("set one second", "Version 2@{second} is in force already; nothing was changed."),
        ("set one second --mode user_prepend", "one: version 3@{second} is in force (before: 2@{second})."),
        ("rollback one 1", "one: version 1@{first} is in force (before: 2@{second})."),
        ("rollback one 2", "Version 2@{second} is in force already; nothing was changed."),
        ("deactivate one", "one: no directive is in force (before: 2@{second})."),
    ],
)
def test_a_change_says_first_what_it_changed(ibex: CliScene, arguments: str, said: str) -> None:
    """A change that changes nothing looks different. The fields follow."""
    for text in ("first", "second"):
        ibex.run("directive", "set", "one", text)

    lines = ibex.run("directive", *arguments.split()).out.splitlines()

    hashes = {name: hashlib.sha256(name.encode()).hexdigest()[:8] for name in ("first", "second")}
    assert lines[0] == said.format(new=hashlib.sha256(b"brief").hexdigest()[:8], **hashes)
    assert (lines[1], lines[2].split()[0]) == ("", "agent_id")


def test_a_change_from_no_directive_says_so(ibex: CliScene) -> None:
    """The first version has none before it, nor has one that ends a deactivation."""
    assert "in force (before: none)." in ibex.run("directive", "set", "one", "first").out.splitlines()[0]
    ibex.run("directive", "deactivate", "one")
    assert ibex.run("directive", "deactivate", "one").out.startswith(
        "The directive is inactive already; nothing was changed.\n"
    )
    assert "in force (before: none)." in ibex.run("directive", "rollback", "one", "1").out.splitlines()[0]


def test_a_diff_of_the_first_version_adds_all_lines(ibex: CliScene) -> None:
    """There is no earlier version to compare with."""
    ibex.run("directive", "set", "one", TEXT)

    out = ibex.run("directive", "diff", "one").out
    assert out.startswith("Version 1 is the first one:\n+++ version 1@")
    assert out.endswith(f"\n+{TEXT}\n")
    assert ibex.run("directive", "diff", "one", "--json").json["before"] is None


@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_diff_has_colours_on_a_terminal(ibex: CliScene, monkeypatch: pytest.MonkeyPatch, no_color: str) -> None:
    """NO_COLOR disables them (no-color.org). Piped output has none either."""
    ibex.run("directive", "set", "one", TEXT)
    ibex.environ["NO_COLOR"] = no_color
    monkeypatch.setattr("sys.stdout", terminal := Terminal())

    ibex.run("directive", "diff", "one")

    assert (f"\x1b[32m+{TEXT}\x1b[0m" in terminal.getvalue()) is (not no_color)
    assert ("\x1b" in terminal.getvalue()) is (not no_color)
