"""The Helm chart, as Helm's own code renders it."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final

from harness.deployment import DEPLOY
from harness.validators import ROOT, run, validator

CHART: Final = DEPLOY / "helm" / "ibex"
KUBERNETES: Final = ("1.29", "1.37")
"""The oldest and the newest version whose schemas the objects must pass."""


@cache
def answer_to(values: str, release: str = "ibex") -> dict[str, Any]:
    """Return what chart_tools.py says about the chart with these values, a JSON object, and this release."""
    question = {"chart": str(CHART), "values": json.loads(values), "release": release, "kubernetes": KUBERNETES}
    code, output = run(
        validator("python"), str(ROOT / "tests" / "deployment" / "chart_tools.py"), stdin=json.dumps(question)
    )
    assert code == 0, output
    found: dict[str, Any] = json.loads(output)
    return found


def objects(values: dict[str, Any], release: str = "ibex") -> list[dict[str, Any]]:
    """Return all objects of the chart with these values and this name of the release."""
    answer = answer_to(json.dumps(values), release)
    assert answer["error"] is None
    return [document for documents in answer["manifests"].values() for document in documents]


def pods(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the specification of the pods of each program."""
    return {
        one["metadata"]["labels"]["app.kubernetes.io/component"]: one["spec"]["template"]["spec"]
        for one in objects(values)
        if "template" in one.get("spec", {})
    }


def environment(pod: dict[str, Any]) -> dict[str, str]:
    """Return the environment variables of a pod's container."""
    return {variable["name"]: variable["value"] for variable in pod["containers"][0]["env"]}
