"""Lint, render and validate a Helm chart: a program for the environment of ``make validators``.

It reads a JSON object from standard input: ``chart`` (a path), ``values``, ``release`` (its name), ``kubernetes`` (a
list of versions). It writes another: ``lint`` (what Helm says), ``error`` (why Helm does not render, or null),
``manifests`` (the objects of each template), ``invalid`` (what the schemas of each version of Kubernetes refuse).
"""

from __future__ import annotations

import json
import sys
from typing import Any

import helm_python
import kubernetes_validate
import yaml

WITHOUT_SCHEMA = frozenset({"monitoring.coreos.com/v1"})
"""The API groups of operators, which Kubernetes itself does not know."""


def rendered(chart: str, values: dict[str, Any], release: str) -> dict[str, list[Any]]:
    """Return the objects of each template. Raises ``HelmError``."""
    with helm_python.Chart.load(chart) as loaded:
        loaded.validate_schema(values)
        texts = loaded.render(values, name=release, namespace="llm")
    return {
        name.removeprefix("ibex/templates/"): [document for document in yaml.safe_load_all(text) if document]
        for name, text in texts.items()
        if name.endswith(".yaml")
    }


def refused(manifests: dict[str, list[Any]], version: str) -> list[str]:
    """Return what the schemas of a version of Kubernetes refuse."""
    found = []
    for documents in manifests.values():
        for document in documents:
            if document["apiVersion"] in WITHOUT_SCHEMA:
                continue
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except Exception as wrong:  # noqa: BLE001 - every failure is a finding
                found.append(f"{document['kind']} {document['metadata']['name']}: {wrong}")
    return found


def main() -> None:
    """Answer one question."""
    asked = json.load(sys.stdin)
    answer: dict[str, Any] = {"manifests": {}, "invalid": {}, "error": None}
    answer["lint"] = helm_python.lint(asked["chart"], asked["values"], strict=True, with_subcharts=False)
    try:
        answer["manifests"] = rendered(asked["chart"], asked["values"], asked["release"])
    except helm_python.HelmError as wrong:
        answer["error"] = str(wrong)
    answer["invalid"] = {version: refused(answer["manifests"], version) for version in asked["kubernetes"]}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
