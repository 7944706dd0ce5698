"""The settings of base path and CORS."""

from __future__ import annotations

import pytest

from ibex.entrypoints.settings import Settings, SettingsError


def test_base_path_and_cors_are_off_by_default() -> None:
    """Paths have no prefix, and no web page can call the API."""
    assert (Settings().base_path, Settings().cors_origins) == ("", ())


@pytest.mark.parametrize(
    ("value", "expected"),
    [("/gateway", "/gateway"), ("/gateway/", "/gateway"), ("/a/b-c_d.e~1", "/a/b-c_d.e~1"), ("/", "")],
)
def test_a_base_path(value: str, expected: str) -> None:
    """A trailing slash makes no difference."""
    assert Settings.load({"IBEX_BASE_PATH": value}).base_path == expected


@pytest.mark.parametrize("value", ["gateway", "//", "/a//b", "/a b", "/ü", "/a%20b", "/..", "/a/./b", "/a?b", "/{org}"])
def test_an_invalid_base_path(value: str) -> None:
    """The message shows an example."""
    with pytest.raises(SettingsError, match=r"IBEX_BASE_PATH is .*; allowed: a path such as /gateway"):
        Settings.load({"IBEX_BASE_PATH": value})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("*", ("*",)),
        ("https://app.test", ("https://app.test",)),
        ("https://App.test:443 , http://localhost:3000,", ("https://app.test", "http://localhost:3000")),
        ("http://app.test:80,https://app.test:80", ("http://app.test", "https://app.test:80")),
        ("http://[::1]:8080", ("http://[::1]:8080",)),
        ("chrome-extension://abcdef,tauri://localhost", ("chrome-extension://abcdef", "tauri://localhost")),
    ],
)
def test_origins(value: str, expected: tuple[str, ...]) -> None:
    """They are normalized as browsers send them: in lower case, without the default port."""
    assert Settings.load({"IBEX_CORS_ORIGINS": value}).cors_origins == expected


@pytest.mark.parametrize(
    "value",
    [
        "app.test",
        "https://app.test/",
        "https://app.test/a",
        "https://*.test",
        "*,https://a.test",
        "null",
        ",",
        "https://",
    ],
)
def test_invalid_origins(value: str) -> None:
    """They would match no page, or more pages than intended."""
    with pytest.raises(SettingsError, match=r"IBEX_CORS_ORIGINS is .*; allowed: origins such as"):
        Settings.load({"IBEX_CORS_ORIGINS": value})
