"""Tests of the operations routes, which need no token: health, readiness and metrics."""

from __future__ import annotations

import json

from harness.http_scene import HttpScene, ScriptedCheck, call


async def test_health_does_not_check_dependencies() -> None:
    """A process is alive even if all its dependencies are down."""
    scene = HttpScene()
    scene.checks = [ScriptedCheck("auth", critical=True, failure=OSError())]

    response = await call(scene.app(), "GET", "/health")

    assert (response.status, response.body) == (200, b'{"status":"ok","checks":{}}')


async def test_readiness_reports_each_check() -> None:
    """A degraded process is still ready, so the status is 200."""
    scene = HttpScene()
    scene.checks = [ScriptedCheck("auth", critical=True), ScriptedCheck("traces", failure=OSError())]

    response = await call(scene.app(), "GET", "/ready")

    assert response.status == 200
    assert json.loads(response.body) == {
        "status": "degraded",
        "checks": {
            "auth": {"status": "ok", "critical": True, "latency_ms": 0.0},
            "traces": {"status": "failed", "critical": False, "latency_ms": 0.0},
        },
    }


async def test_a_process_that_is_not_ready_returns_503_with_the_error_envelope() -> None:
    """The body has the error envelope in addition to the readiness report."""
    scene = HttpScene()
    scene.checks = [ScriptedCheck("auth", critical=True, failure=OSError())]

    response = await call(scene.app(), "GET", "/ready")

    assert (response.status, json.loads(response.body)["status"]) == (503, "unhealthy")
    assert response.error["code"] == "SERVICE_DEGRADED"
    assert response.error["request_id"] == response.headers["x-request-id"]


async def test_readiness_returns_503_once_a_drain_has_begun() -> None:
    """The next readiness request gets 503, while health stays 200."""
    scene = HttpScene()
    app = scene.app()

    assert (await call(app, "GET", "/ready")).status == 200
    scene.drain.begin()
    assert (await call(app, "GET", "/ready")).status == 503
    assert (await call(app, "GET", "/health")).status == 200


async def test_metrics_are_rendered_for_each_request() -> None:
    """The response has the renderer's current body and its content type."""
    scene = HttpScene()
    app = scene.app()
    scene.metrics = b"later 2\n"

    response = await call(app, "GET", "/metrics")

    assert response.body == b"later 2\n"
    assert response.headers["content-type"] == "text/plain; version=0; charset=utf-8"
