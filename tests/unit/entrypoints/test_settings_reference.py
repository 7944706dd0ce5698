"""The pages about settings are generated, and current."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ibex.entrypoints.settings import Settings, variables
from ibex.entrypoints.settings_reference import ENV_EXAMPLE, REFERENCE, env_example, main, reference

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[3]


def test_every_variable_is_on_both_pages() -> None:
    """With its meaning; secrets have no default to show."""
    for _, variable in variables():
        assert f"#{variable.name}=" in env_example()
        assert f"| `{variable.name}` |" in reference()
        assert variable.meaning in env_example()
        if variable.is_secret:
            assert f"#{variable.name}=\n" in env_example()


def test_the_defaults_on_the_page_are_the_defaults() -> None:
    """Every line of the example, taken out of its comment, gives the settings that no line gives."""
    lines = [line.removeprefix("#") for line in env_example().splitlines() if line.startswith(("#IBEX", "#OPENAI"))]

    assert Settings.load(dict(line.split("=", 1) for line in lines)) == Settings()


def test_the_pages_in_the_repository_are_current() -> None:
    """As `make check` tests it too."""
    assert (ROOT / ENV_EXAMPLE).read_text(encoding="utf-8") == env_example()
    assert (ROOT / REFERENCE).read_text(encoding="utf-8") == reference()


def test_a_page_that_is_not_current_is_named_and_then_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checking changes nothing and fails; writing makes it pass."""
    monkeypatch.chdir(tmp_path)

    assert main(["--check"]) == 1
    assert "docs/configuration.md" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main([]) == 0
    assert main(["--check"]) == 0
