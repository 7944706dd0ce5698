"""The generated pages about settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ibex.entrypoints.settings import Settings, variables
from ibex.entrypoints.settings_reference import ENV_EXAMPLE, REFERENCE, env_example, main, reference

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[3]


def test_every_variable_is_on_both_pages() -> None:
    """Each has its meaning. Secrets have no default."""
    for _, variable in variables():
        assert f"#{variable.name}=" in env_example()
        assert f"| `{variable.name}` |" in reference()
        assert variable.meaning in env_example()
        if variable.is_secret:
            assert f"#{variable.name}=\n" in env_example()


def test_the_example_contains_the_defaults() -> None:
    """With every line uncommented, the example loads the default settings."""
    lines = [line.removeprefix("#") for line in env_example().splitlines() if line.startswith(("#IBEX", "#OPENAI"))]

    assert Settings.load(dict(line.split("=", 1) for line in lines)) == Settings()


def test_the_pages_in_the_repository_are_current() -> None:
    """`make check` tests this too."""
    assert (ROOT / ENV_EXAMPLE).read_text(encoding="utf-8") == env_example()
    assert (ROOT / REFERENCE).read_text(encoding="utf-8") == reference()


def test_an_outdated_page_fails_the_check_until_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The check names the page and changes nothing."""
    monkeypatch.chdir(tmp_path)

    assert main(["--check"]) == 1
    assert "docs/configuration.md" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main([]) == 0
    assert main(["--check"]) == 0
