"""The provider's last failure, from the access log."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ibex.entrypoints.provider_log import ProviderFailure, last_failure

if TYPE_CHECKING:
    from pathlib import Path

ACCESS = {"source": "ibex.access", "timestamp": "2026-01-02T03:04:05Z", "attempts": 1}
REFUSED = {**ACCESS, "provider_status": 401}
OTHER = {"source": "uvicorn.error", "event": "started"}


def logged(*lines: object) -> str:
    """Return a log with these lines."""
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        (logged(ACCESS, REFUSED, OTHER), True),
        (logged(REFUSED, {**ACCESS, "attempts": None}), True),
        (logged(REFUSED, ACCESS), False),
        (logged({**ACCESS, "provider_status": 503}), False),
        (logged(OTHER), False),
        ('x"ibex.access"' + logged(["ibex.access"]) + logged(REFUSED)[:20], False),
        ("", False),
    ],
    ids=["last", "last that reached it", "taken since", "another fault", "nothing asked", "no lines of ours", "empty"],
)
def test_the_last_request_that_reached_the_provider_counts(tmp_path: Path, text: str, *, refused: bool) -> None:
    """The key may have been replaced since. Requests that did not reach the provider are ignored."""
    (tmp_path / "log").write_text(text)
    assert last_failure(tmp_path / "log") == (ProviderFailure("2026-01-02T03:04:05Z", 401) if refused else None)


@pytest.mark.parametrize("later", [[], [{**ACCESS, "attempts": None}], [ACCESS]], ids=["last", "refused", "answered"])
def test_the_reason_why_the_provider_was_not_reached_is_found(tmp_path: Path, later: list[object]) -> None:
    """A later request that reached the provider ends the outage; one that IBEX refused does not."""
    failure = "cannot connect to localhost: connection refused"
    (tmp_path / "log").write_text(logged({**ACCESS, "connect_failure": failure}, *later))

    expected = None if later == [ACCESS] else ProviderFailure("2026-01-02T03:04:05Z", connect_failure=failure)
    assert last_failure(tmp_path / "log") == expected


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    """The last MiB is read, without the incomplete first line."""
    (tmp_path / "log").write_text(logged(REFUSED) + logged(OTHER) * 30_000)
    assert last_failure(tmp_path / "log") is None
    assert last_failure(tmp_path / "none") is None
