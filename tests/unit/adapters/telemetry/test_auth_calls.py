"""Tests of the telemetry of calls to the auth service."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from harness.logs import logging_to
from ibex.adapters.telemetry.auth_calls import AuthCallTelemetry
from ibex.adapters.telemetry.current_request import CURRENT
from ibex.adapters.telemetry.ops import AuthMetrics

if TYPE_CHECKING:
    from collections.abc import Iterator

ID = UUID(int=7)


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """The stream to which logs are written."""
    stream = io.StringIO()
    with logging_to(stream, "info"):
        yield stream


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    """Return the lines, without their times."""
    read = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [{name: value for name, value in line.items() if name != "timestamp"} for line in read]


def test_a_call_is_logged_in_one_line(stream: io.StringIO) -> None:
    """The line has the method, the status and the duration in milliseconds. No request is current afterwards."""
    metrics = AuthMetrics()
    telemetry = AuthCallTelemetry(metrics)
    telemetry.began(ID)
    telemetry.ended("ValidateToken", "OK", 1_234_567)

    assert lines(stream) == [
        {
            "event": "call",
            "level": "info",
            "source": "ibex.auth",
            "request_id": str(ID),
            "trace_id": ID.hex,
            "method": "ValidateToken",
            "status": "OK",
            "duration_ms": 1.234,
        }
    ]
    assert CURRENT.get() is None
    assert b'ibex_auth_call_duration_seconds_count{method="ValidateToken",status="OK"} 1.0' in metrics.render()[0]


def test_every_line_of_a_call_has_its_request_id(stream: io.StringIO) -> None:
    """This includes lines of libraries. An exception is logged with its type and frames, but without its message."""
    metrics = AuthMetrics()
    telemetry = AuthCallTelemetry(metrics)
    telemetry.began(ID)
    logging.getLogger("somebody").warning("something")
    telemetry.failed(RuntimeError("canary"))
    telemetry.ended("ValidateToken", "INTERNAL", 0)

    assert [line["request_id"] for line in lines(stream)] == [str(ID)] * 3
    assert "RuntimeError" in stream.getvalue()
    assert "canary" not in stream.getvalue()
    assert b"ibex_auth_internal_errors_total 1.0" in metrics.render()[0]
