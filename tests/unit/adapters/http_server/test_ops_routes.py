"""What who runs the proxy may ask, without a token."""

from __future__ import annotations

import json

from harness.http_scene import HttpScene, ScriptedCheck, call


async def test_health_touches_nothing() -> None:
    """A process whose dependencies are gone is alive."""
    scene = HttpScene()
    scene.checks = [ScriptedCheck("auth", critical=True, failure=OSError())]

    response = await call(scene.app(), "GET", "/health")

    assert (response.status, response.body) == (200, b'{"status":"ok","checks":{}}')


async def test_readiness_tells_of_each_check() -> None:
    """Degraded is ready."""
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


async def test_a_process_that_is_not_ready_answers_503_in_the_envelope_too() -> None:
    """Every error has the one shape, whatever else it says."""
    scene = HttpScene()
    scene.checks = [ScriptedCheck("auth", critical=True, failure=OSError())]

    response = await call(scene.app(), "GET", "/ready")

    assert (response.status, json.loads(response.body)["status"]) == (503, "unhealthy")
    assert response.error["code"] == "SERVICE_DEGRADED"
    assert response.error["request_id"] == response.headers["x-request-id"]


async def test_readiness_turns_as_soon_as_a_drain_begins() -> None:
    """The very next question is answered 503."""
    scene = HttpScene()
    app = scene.app()

    assert (await call(app, "GET", "/ready")).status == 200
    scene.drain.begin()
    assert (await call(app, "GET", "/ready")).status == 503
    assert (await call(app, "GET", "/health")).status == 200


async def test_metrics_are_rendered_when_they_are_asked_for() -> None:
    """Body and content type are the renderer's."""
    scene = HttpScene()
    app = scene.app()
    scene.metrics = b"later 2\n"

    response = await call(app, "GET", "/metrics")

    assert response.body == b"later 2\n"
    assert response.headers["content-type"] == "text/plain; version=0; charset=utf-8"
