"""Detection of a refused API key from the access log."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ibex.entrypoints.refused_key import RefusedKey, last_refusal

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
    assert last_refusal(tmp_path / "log") == (RefusedKey(401, "2026-01-02T03:04:05Z") if refused else None)


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    """The last MiB is read, without the incomplete first line."""
    (tmp_path / "log").write_text(logged(REFUSED) + logged(OTHER) * 30_000)
    assert last_refusal(tmp_path / "log") is None
    assert last_refusal(tmp_path / "none") is None
