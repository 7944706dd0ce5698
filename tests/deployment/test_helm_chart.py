"""The Helm chart, rendered by Helm's own code and validated by the schemas of Kubernetes."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import msgspec
import pytest

from harness.deployment import DEPLOY, FLUSH_S
from harness.helm import CHART, KUBERNETES, answer_to, environment, objects, pods

CONFIG_MAP_BYTES: Final = 1 << 20
"""The limit of Kubernetes for a ConfigMap."""
EVERYTHING: Final[dict[str, Any]] = {
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboards": {"enabled": True, "label": "example.com/dashboard", "annotations": {"grafana_folder": "IBEX"}},
    "authTLSSecret": "ibex-auth-tls",
    "imagePullSecrets": [{"name": "registry"}],
    "serviceAccountName": "ibex",
    "proxy": {
        "workers": 4,
        "settings": {"IBEX_LOG_LEVEL": "warning", "IBEX_JOURNAL_MAX_BYTES": "1073741824"},
        "journal": {"size": "10Gi", "storageClassName": "local"},
        "service": {"type": "LoadBalancer", "annotations": {"example.com/scheme": "internal"}},
        "nodeSelector": {"pool": "llm"},
        "tolerations": [{"key": "llm", "operator": "Exists"}],
    },
    "networkPolicy": {
        "clients": [{"namespaceSelector": {"matchLabels": {"llm": "yes"}}}],
        "servers": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
    },
}
"""Values that use every option of the chart."""


def the(kind: str, name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return one object of the chart."""
    (found,) = [one for one in objects(values) if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


BOTH = pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])


@BOTH
def test_the_chart_passes_helms_lint_and_the_schemas_of_kubernetes(values: dict[str, Any]) -> None:
    """Strictly, for the oldest and the newest supported version: a field that they do not know fails."""
    answer = answer_to(json.dumps(values))

    assert (answer["lint"]["errors"], answer["error"]) == ([], None)
    assert answer["invalid"] == {version: [] for version in KUBERNETES}


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("prod", "prod-ibex"),
        ("my-ibex-prod", "my-ibex-prod"),
        ("123", "ibex-123"),
        ("1e3", "ibex-1e3"),
        ("true", "true-ibex"),
        ("eu.prod", "eu-prod-ibex"),
        ("a" * 53, f"{'a' * 35}-ibex"),
        (f"{'a' * 34}-{'b' * 14}ibex", f"{'a' * 34}-ibex"),
    ],
)
def test_a_release_can_have_any_name(release: str, expected: str) -> None:
    """A Service's name begins with a letter and has no dot, a label is a text, and each name contains "ibex"."""
    answer = answer_to(json.dumps(EVERYTHING), release)
    names = {one["metadata"]["name"] for found in answer["manifests"].values() for one in found}

    assert answer["error"] is None
    assert answer["invalid"] == {version: [] for version in KUBERNETES}
    assert all(name == expected or name.startswith(f"{expected}-") for name in names)
    assert all(re.fullmatch("[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name) for name in names)


@BOTH
def test_the_chart_has_every_object_that_an_installation_needs(values: dict[str, Any]) -> None:
    """Auth's Service is headless, so that a proxy finds every replica."""
    found = {(one["kind"], one["metadata"]["name"]) for one in objects(values)}

    assert found >= {
        ("StatefulSet", "ibex-proxy"),
        ("Deployment", "ibex-auth"),
        ("Job", "ibex-migration"),
        ("Service", "ibex-proxy"),
        ("PodDisruptionBudget", "ibex-proxy"),
        ("PodDisruptionBudget", "ibex-auth"),
        ("HorizontalPodAutoscaler", "ibex-proxy"),
        *(("NetworkPolicy", f"ibex-{program}") for program in ("proxy", "auth", "migration")),
    }
    assert the("Service", "ibex-auth", values)["spec"]["clusterIP"] == "None"
    assert environment(pods(values)["proxy"])["IBEX_AUTH_ADDRESS"] == "dns:///ibex-auth:9091"


def test_pod_monitors_select_the_pods_and_their_port_of_operations() -> None:
    """They are of an operator, whose schemas Kubernetes does not have."""
    monitors = [one for one in objects(EVERYTHING) if one["kind"] == "PodMonitor"]

    assert [one["metadata"]["name"] for one in monitors] == ["ibex-proxy", "ibex-auth"]
    for monitor in monitors:
        component = monitor["metadata"]["labels"]["app.kubernetes.io/component"]
        assert monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] == component
        assert [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]] == ["ops"]
        assert "ops" in {port["name"] for port in pods(EVERYTHING)[component]["containers"][0]["ports"]}
    assert not [one for one in objects({}) if one["kind"] == "PodMonitor"]


def test_the_rule_of_prometheus_has_the_alerts_of_the_file() -> None:
    """Helm copies the file as it is: the templates in its annotations are Prometheus' own."""
    rule = the("PrometheusRule", "ibex", EVERYTHING)

    assert rule["spec"] == msgspec.yaml.decode((DEPLOY / "rules.yaml").read_bytes())
    assert "{{ $labels.sink }}" in rule["spec"]["groups"][0]["rules"][0]["annotations"]["summary"]
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert not [one for one in objects({}) if one["kind"] == "PrometheusRule"]


def test_the_rules_have_only_fields_of_the_operators_schema() -> None:
    """The operator refuses others; its schemas are not among those of Kubernetes."""
    for group in the("PrometheusRule", "ibex", EVERYTHING)["spec"]["groups"]:
        assert set(group) <= {"name", "interval", "rules"}
        for rule in group["rules"]:
            assert set(rule) <= {"alert", "record", "expr", "for", "keep_firing_for", "labels", "annotations"}


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ({}, ("grafana_dashboard", "1")),
        ({"label": "example.com/board", "labelValue": "yes"}, ("example.com/board", "yes")),
    ],
    ids=["default", "another-label"],
)
def test_the_config_map_has_the_dashboards_and_the_label_of_grafanas_sidecar(
    values: dict[str, Any], label: tuple[str, str]
) -> None:
    """Each file of deploy/grafana arrives byte for byte."""
    given = {"dashboards": {"enabled": True, **values}}
    found = the("ConfigMap", "ibex-dashboards", given)

    assert found["data"] == {path.name: path.read_text() for path in (DEPLOY / "grafana").iterdir()}
    assert label in found["metadata"]["labels"].items()
    assert len(json.dumps(found)) < CONFIG_MAP_BYTES
    assert not [one for one in objects({}) if one["kind"] == "ConfigMap"]


@pytest.mark.parametrize("name", ["rules.yaml", "grafana/ibex-metrics.json", "grafana/ibex-traces.json"])
def test_a_file_that_the_chart_contains_exists_once(name: str) -> None:
    """Helm reads files of the chart only, so the chart has the file. deploy/ has a link to it, and no copy."""
    assert (DEPLOY / name).is_symlink()
    assert (DEPLOY / name).resolve().is_relative_to(CHART / "files")


@BOTH
@pytest.mark.parametrize("program", ["proxy", "auth", "migration"])
def test_pods_meet_the_restricted_pod_security_standard(program: str, values: dict[str, Any]) -> None:
    """They get nothing of the cluster either: no token, and no variables for its Services."""
    pod = pods(values)[program]
    (container,) = pod["containers"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    assert set(container["resources"]) == {"requests", "limits"}
    assert {mount["name"] for mount in container["volumeMounts"] if not mount.get("readOnly")} <= {"journal"}


@BOTH
@pytest.mark.parametrize("program", ["proxy", "auth"])
def test_probes_ask_health_and_ready_on_the_port_of_operations(program: str, values: dict[str, Any]) -> None:
    """A failed dependency makes a pod unready, and never restarts it."""
    (container,) = pods(values)[program]["containers"]
    asked = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}

    assert asked == {
        "startupProbe": {"path": "/health", "port": "ops"},
        "livenessProbe": {"path": "/health", "port": "ops"},
        "readinessProbe": {"path": "/ready", "port": "ops"},
    }


@pytest.mark.parametrize("program", ["proxy", "auth"])
@pytest.mark.parametrize(("drain", "shutdown"), [(5, 30), (20, 300)])
def test_a_pod_has_time_to_drain_to_finish_and_to_flush(program: str, drain: int, shutdown: int) -> None:
    """Kubernetes kills it only after the times of the settings, and 15 s for the journal."""
    values = {program: {"drainDelaySeconds": drain, "shutdownTimeoutSeconds": shutdown}}
    pod = pods(values)[program]

    assert environment(pod).items() >= {("IBEX_DRAIN_DELAY", str(drain)), ("IBEX_SHUTDOWN_TIMEOUT", str(shutdown))}
    assert pod["terminationGracePeriodSeconds"] >= drain + shutdown + FLUSH_S
    (probe,) = [container["readinessProbe"] for container in pod["containers"]]
    assert probe["periodSeconds"] * probe["failureThreshold"] <= 5, "a drain must be noticed within IBEX_DRAIN_DELAY"


def test_proxies_keep_their_journals_and_spread() -> None:
    """A journal may hold exchanges that no database has yet."""
    proxy = the("StatefulSet", "ibex-proxy", {})["spec"]

    assert proxy["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert proxy["updateStrategy"]["type"] == "RollingUpdate"
    assert [claim["metadata"]["name"] for claim in proxy["volumeClaimTemplates"]] == ["journal"]
    (mount,) = [m for m in pods({})["proxy"]["containers"][0]["volumeMounts"] if m["name"] == "journal"]
    assert environment(pods({})["proxy"])["IBEX_JOURNAL_DIR"].startswith(f"{mount['mountPath']}/")
    for program in ("proxy", "auth"):
        keys = [constraint["topologyKey"] for constraint in pods({})[program]["topologySpreadConstraints"]]
        assert keys == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]


@BOTH
def test_each_program_gets_its_own_secrets_as_files(values: dict[str, Any]) -> None:
    """The manifests contain no secret, and a program no secret of another."""
    for program, pod in pods(values).items():
        variables = environment(pod)
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        files = [value for name, value in variables.items() if name.endswith("_FILE")]
        assert files
        assert all(value.rpartition("/")[0] in mounts for value in files)
        (secret,) = [volume["secret"] for volume in pod["volumes"] if volume["name"] == "secrets"]
        assert secret["secretName"] == f"ibex-{program}"


@pytest.mark.parametrize("name", ["123", "true", "1e3"])
def test_a_name_that_looks_like_a_number_stays_a_text(name: str) -> None:
    """This covers Secrets, the service account and the storage class."""
    values = {
        "secrets": {"proxy": name, "auth": name, "migration": name},
        "serviceAccountName": name,
        "authTLSSecret": name,
        "proxy": {"journal": {"storageClassName": name}},
    }

    assert answer_to(json.dumps(values))["invalid"] == {version: [] for version in KUBERNETES}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1073741824, "1073741824"),
        (0.5, "0.5"),
        (7, "7"),
        (True, "true"),
        ("1e3", "1e3"),
        ('a="b": {{ x }}', 'a="b": {{ x }}'),
    ],
)
def test_a_setting_has_the_text_of_its_value(value: object, text: str) -> None:
    """Helm itself prints a large number as 1.073741824e+09, which IBEX refuses."""
    for program in ("proxy", "auth", "migration"):
        assert environment(pods({program: {"settings": {"IBEX_X": value}}})[program])["IBEX_X"] == text


def test_no_peer_of_monitoring_means_nobody() -> None:
    """Kubernetes takes an empty list of peers for everyone."""
    for program in ("proxy", "auth"):
        rules = the("NetworkPolicy", f"ibex-{program}", {"networkPolicy": {"monitoring": []}})["spec"]["ingress"]
        assert [port["port"] for rule in rules for port in rule["ports"]] == [
            {"proxy": "http", "auth": "grpc"}[program]
        ]


@BOTH
def test_selectors_match_the_labels_of_the_pods(values: dict[str, Any]) -> None:
    """A budget, policy or Service that selects nothing has no effect, and says nothing."""
    labels = [
        one["spec"]["template"]["metadata"]["labels"] for one in objects(values) if "template" in one.get("spec", {})
    ]
    selectors = []
    for one in objects(values):
        spec = one.get("spec", {})
        selector = spec.get("podSelector", spec.get("selector", {}))
        selectors.append(selector.get("matchLabels", selector))
    chosen = [selector for selector in selectors if selector]

    assert len(chosen) >= 10
    for selector in chosen:
        assert any(selector.items() <= label.items() for label in labels), selector


@pytest.mark.parametrize(
    "values",
    [
        {"proxy": {"replica": 3}},
        {"proxy": {"workers": 0}},
        {"proxy": {"settings": {"PATH": "/"}}},
        {"secrets": {"proxy": ""}},
        {"proxy": {"journal": {"size": "much"}}},
        {"dashboards": {"enabled": True, "label": "not a label"}},
        {"prometheusRule": {"enable": True}},
        {"networkPolicy": {"serverPorts": []}},
        {"networkPolicy": {"providerPorts": []}},
    ],
    ids=[
        "unknown",
        "too-small",
        "no-setting",
        "empty",
        "no-quantity",
        "no-label",
        "misspelled",
        "every-port-of-servers",
        "every-port-of-all",
    ],
)
def test_the_schema_refuses_wrong_values(values: dict[str, Any]) -> None:
    """A misspelled value would otherwise do nothing."""
    assert answer_to(json.dumps(values))["error"] is not None
