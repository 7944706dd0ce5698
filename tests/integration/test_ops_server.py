"""``IBEX_OPS_LISTEN``: a second address of the proxy for health, readiness and metrics."""

from __future__ import annotations

import json
import signal
import socket

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness.production import START_TIMEOUT_S, Production
from harness.servers import free_port
from ibex.entrypoints.ops_server import listen_for_ops
from ibex.entrypoints.settings import Settings

pytestmark = pytest.mark.integration

MANY = 10_000
OPS = {"IBEX_OPS_LISTEN": "127.0.0.1:0", "IBEX_BASE_PATH": "/gateway"}


def ops_address(production: Production) -> str:
    """Return the second address of the proxy that was started last."""
    line = production.processes[-1].wait_for_line("health and metrics on", START_TIMEOUT_S)
    return str(json.loads(line)["event"]).removeprefix("health and metrics on ")


def get(url: str) -> httpx.Response:
    """Return the response to a GET request on a connection of its own."""
    return httpx.get(url, trust_env=False)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_second_address_has_health_readiness_and_the_metrics_of_all_workers(
    production: Production, workers: int
) -> None:
    """The proxy's own address has no metrics then, but probes can ask either. The second one serves no client."""
    public = production.start_proxy(workers, **OPS)
    ops = ops_address(production)

    for _ in range(4):  # whichever worker answers
        families = {family.name: family for family in text_string_to_metric_families(get(f"{ops}/metrics").text)}
        up = {sample.labels["worker"]: sample.value for sample in families["ibex_proxy_worker_up"].samples}
        assert up == {str(number): 1 for number in range(workers)}
    assert {get(f"{address}/{path}").status_code for address in (public, ops) for path in ("health", "ready")} == {200}
    assert get(f"{public}/metrics").status_code == 404
    assert get(f"{ops}/v1/models").status_code == 404
    assert get(f"{ops}/gateway/metrics").status_code == 404


def test_without_the_setting_no_second_address_is_bound() -> None:
    """The default is the one address of the proxy."""
    with socket.create_server(("127.0.0.1", 0)) as public:
        assert listen_for_ops(Settings.load({}), public) is None


def test_without_the_setting_the_proxys_own_address_has_the_metrics(production: Production) -> None:
    """Nothing changes for an installation that does not set it."""
    public = production.start_proxy()

    assert "ibex_proxy_worker_up" in get(f"{public}/metrics").text
    assert not any("health and metrics on" in line for line in production.processes[-1].lines)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("listen", ["192.0.2.1:0", "no-such-host.invalid:0", "127.0.0.1:{taken}"])
def test_an_address_that_cannot_be_bound_is_named_with_its_setting(
    production: Production, listen: str, workers: int
) -> None:
    """The exit code is 1. An address that is the proxy's own is refused as well."""
    port = free_port()

    proxy = production.spawn_proxy(workers, IBEX_PORT=str(port), IBEX_OPS_LISTEN=listen.format(taken=port))

    assert proxy.wait() == 1
    assert proxy.lines[-2].startswith("ibex: IBEX_OPS_LISTEN cannot be used: "), proxy.lines


def test_the_second_address_stays_while_sighup_replaces_the_workers(production: Production) -> None:
    """It is ready all the time. Another address in the settings needs a restart, as a warning says."""
    dotenv = production.folder / ".env"
    dotenv.write_text("IBEX_OPS_LISTEN=127.0.0.1:0\n")
    public = production.start_proxy(2)
    ops, proxy, before = ops_address(production), production.processes[-1], production.workers()
    dotenv.write_text("IBEX_HOST=127.0.0.1\n")
    proxy.process.send_signal(signal.SIGHUP)

    statuses: list[int] = []
    while not any("all workers are replaced" in line for line in proxy.lines):
        assert len(statuses) < MANY
        statuses += [get(f"{ops}/ready").status_code, get(f"{ops}/metrics").status_code]

    assert not before & production.workers()
    assert set(statuses) == {get(f"{ops}/ready").status_code} == {200}
    assert get(f"{public}/metrics").status_code == 404
    assert any("IBEX_OPS_LISTEN has changed" in line for line in proxy.lines)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_second_address_is_not_ready_during_the_drain_delay(production: Production, workers: int) -> None:
    """It still has the metrics. A second SIGINT ends the delay."""
    public = production.start_proxy(workers, **OPS, IBEX_DRAIN_DELAY="60")
    ops, proxy = ops_address(production), production.processes[-1]
    assert get(f"{public}/ready").status_code == 200

    proxy.process.send_signal(signal.SIGTERM)
    while get(f"{ops}/ready").status_code == 200:
        pass
    assert get(f"{ops}/ready").status_code == 503
    assert get(f"{ops}/metrics").status_code == 200

    assert proxy.stop(signal.SIGINT) == 0
    with pytest.raises(httpx.ConnectError):
        get(f"{ops}/health")


def test_the_second_address_answers_until_the_proxy_ends(production: Production) -> None:
    """Afterwards the port is free: no process holds it."""
    production.start_proxy(2, **OPS)
    ops = ops_address(production)

    assert production.processes.pop().stop(signal.SIGTERM) == 0

    with pytest.raises(httpx.ConnectError):
        get(f"{ops}/health")
