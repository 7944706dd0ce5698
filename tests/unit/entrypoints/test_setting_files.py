"""Settings that are given as files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ibex.entrypoints.setting_files import MAX_BYTES, file_variable, layered
from ibex.entrypoints.settings import Settings, SettingsError, variables

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("content", ["sk-canary", "sk-canary\n", "sk-canary\r\n"])
def test_a_variable_is_read_from_a_file(tmp_path: Path, content: str) -> None:
    """The newline at its end is not a part of the value. An empty variable counts as not set."""
    file = tmp_path / "key"
    file.write_text(content, newline="")
    settings = Settings.load({"OPENAI_API_KEY_FILE": f" {file} ", "OPENAI_API_KEY": "", "IBEX_PORT_FILE": ""})

    assert settings.openai_api_key is not None
    assert settings.openai_api_key.reveal() == "sk-canary"
    assert settings.files == (("openai_api_key", str(file)),)


def test_every_setting_but_those_of_files_and_the_environment_can_be_a_file(tmp_path: Path) -> None:
    """Settings that are not secrets can, too."""
    (tmp_path / "port").write_text("8123\n")
    without = {variable.name for _, variable in variables() if file_variable(variable.name) is None}

    assert Settings.load({"IBEX_PORT_FILE": str(tmp_path / "port")}).port == 8123
    assert all(name.endswith("_FILE") or name == "IBEX_ENV" for name in without)


def test_a_variable_and_its_file_are_not_set_together(tmp_path: Path) -> None:
    """The error names both, and no value."""
    environ = {"OPENAI_API_KEY": "sk-canary", "OPENAI_API_KEY_FILE": str(tmp_path)}
    with pytest.raises(SettingsError, match=r"^OPENAI_API_KEY and OPENAI_API_KEY_FILE are both set") as raised:
        Settings.load(environ)
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, r"cannot be read \(No such file or directory\)"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\xffcanary", "is not valid UTF-8"),
        (b"x" * (MAX_BYTES + 1), "larger than 1 MiB"),
        (b"mysql://canary", "whose content is not valid; allowed: a postgresql:// URL"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, reason: str) -> None:
    """The error has the variable, the path and the reason, and no part of the content."""
    file = tmp_path / "url"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=rf"^IBEX_DATABASE_URL_FILE is '{file}'.*{reason}") as raised:
        Settings.load({"IBEX_DATABASE_URL_FILE": str(file)})
    assert "canary" not in str(raised.value)


def test_a_pipe_or_a_folder_does_not_block(tmp_path: Path) -> None:
    """Only a regular file can be read again."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(SettingsError, match=r"not a regular file|Is a directory"):
            Settings.load({"OPENAI_API_KEY_FILE": str(path)})


def test_a_later_environment_replaces_the_file_of_an_earlier_one() -> None:
    """The reverse holds too. Both in one environment stay, so that the error names them."""
    assert layered({"A_FILE": "f", "B": "b", "C": "c"}, {"A": "a", "B_FILE": "g"}) == {
        "A": "a",
        "B_FILE": "g",
        "C": "c",
    }
    assert layered({"A": "a", "A_FILE": "f"}) == {"A": "a", "A_FILE": "f"}
