"""The dashboards and the metrics page name only metrics that exist, and the page names all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ibex.adapters.telemetry.auth_calls import AuthCallTelemetry
from ibex.adapters.telemetry.reloads import ReloadTelemetry
from ibex.entrypoints.containers import application_of
from ibex.entrypoints.environments import AuthAdapters, EmbeddedAdapters, ProductionAdapters
from ibex.entrypoints.rotation import proxy_files
from ibex.entrypoints.settings import Settings

if TYPE_CHECKING:
    from ibex.adapters.telemetry.exposition import Family

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "metrics.md"
DASHBOARDS = tuple(sorted((ROOT / "deploy" / "grafana").glob("*.json")))
NAME = re.compile(r"\bibex_(?:proxy|auth)_\w+")
ROW = re.compile(r"^\| `(ibex_\w+)` \| (\w+) \|([^|]*)\| [^|]+ \|$", re.MULTILINE)
ENVIRON = {
    "IBEX_DATABASE_URL": "postgresql://ibex_app@127.0.0.1:1/ibex",
    "IBEX_AUTH_DATABASE_URL": "postgresql://ibex_auth@127.0.0.1:1/ibex",
    "IBEX_CLICKHOUSE_URL": "http://127.0.0.1:1",
    "IBEX_TOKEN_PEPPERS": "k:AAECAwQFBgcICQoLDA0ODw==",
    "IBEX_REDIS_URL": "redis://127.0.0.1:1/0",
    "IBEX_AUTH_ADDRESS": "127.0.0.1:1",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
}


async def exported() -> dict[str, Family]:
    """Return the metrics of the proxy, in both environments, and of auth, by name."""
    settings = Settings.load(ENVIRON)
    families: dict[str, Family] = {}
    for environment in (ProductionAdapters, EmbeddedAdapters):
        adapters = environment()
        application = application_of(adapters, settings)
        used = (application.app, application.abandon_idle_sessions, adapters.background, adapters.loop_lag)
        for made in (*used, adapters.orphaned_journals):
            made()
        proxy_files(settings, adapters)
        families |= adapters.registry().families
    auth = AuthAdapters()
    auth.settings.override(settings)
    auth.background()
    auth.link()
    AuthCallTelemetry(auth.metrics())
    ReloadTelemetry(auth.metrics().registry, ())
    return families | dict(auth.metrics().registry.families)


def metric_of(name: str, families: dict[str, Family]) -> str:
    """Return the metric that a series belongs to, or the name itself if no metric has it."""
    whole, _, part = name.rpartition("_")
    is_part = part in {"bucket", "count", "sum"} and whole in families and families[whole].kind == "histogram"
    return whole if is_part else name


async def test_the_page_lists_every_metric_with_its_kind_and_labels() -> None:
    """A metric on the page that no longer exists fails the test too."""
    told = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in ROW.findall(PAGE.read_text())}

    assert told == {family.name: (family.kind, family.labels) for family in (await exported()).values()}


@pytest.mark.parametrize("text", [path.read_text() for path in (PAGE, *DASHBOARDS)], ids=["page", "metrics", "traces"])
async def test_pages_and_dashboards_use_only_exported_metrics(text: str) -> None:
    """Label filters in braces name only labels of the metric."""
    families = await exported()

    assert {metric_of(name, families) for name in NAME.findall(text)} <= set(families)
    for name, inside in re.findall(r"\b(ibex_\w+)\{([^}]*)\}", text.replace('\\"', '"')):
        family = families[metric_of(name, families)]
        asked = {label for label in re.findall(r"(\w+)\s*[=!]", inside) if label != "instance"}
        assert asked <= {*family.labels, *(["worker"] if family.merge.value == "each" else [])}, name


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_a_dashboard_can_be_imported(path: Path) -> None:
    """Every data source is a variable, panel ids are unique, and panels do not overlap."""
    dashboard = json.loads(path.read_text())
    places: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        taken = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not places & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        places |= taken
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
            asked = target.get("expr", target.get("rawSql", ""))
            assert asked.count("(") == asked.count(")"), panel["title"]

    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    assert dashboard["uid"] == path.stem
    assert {variable["name"] for variable in dashboard["templating"]["list"]} >= {"datasource"}


async def test_every_metric_of_the_proxy_is_on_the_dashboard() -> None:
    """The metric of abandoned sessions is the one exception: operators read sessions from PostgreSQL."""
    families = await exported()
    asked = {metric_of(name, families) for name in NAME.findall(DASHBOARDS[0].read_text())}

    missing = {name for name in families if name.startswith("ibex_proxy_")} - asked
    assert missing == {"ibex_proxy_sessions_abandoned_total"}
