"""Every environment variable in the files of deploy/, and on the page about them, is a setting of IBEX."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest

from harness.containerfile import parse_containerfile
from harness.deployment import DEPLOY, OF_IBEX, compose, unit_environment, unknown_settings
from harness.helm import environment, pods
from harness.validators import ROOT

Variables = Mapping[str, Any]
OF_COMMANDS: Final = frozenset({"IBEX_URL"})
"""Variables of commands, in place of an option."""


def of_compose() -> Variables:
    """Return the variables of all services. Those of other programs have other names."""
    return {name: value for one in compose()["services"].values() for name, value in one.get("environment", {}).items()}


def of_the_image() -> Variables:
    """Return the variables that the image sets."""
    final = parse_containerfile((DEPLOY / "Containerfile").read_text())[-1]
    known = {"PATH": ""}
    return {name: value for one in final.all("ENV") for name, value in one.pairs(known).items()}


def of_the_units() -> Variables:
    """Return the variables of all systemd units."""
    units = [path.name for path in (DEPLOY / "systemd").glob("*.service")]
    return {name: value for unit in units for name, value in unit_environment(unit).items()}


def of_the_chart() -> Variables:
    """Return the variables of all pods."""
    values = {"authTLSSecret": "ibex-auth-tls"}
    return {name: value for pod in pods(values).values() for name, value in environment(pod).items()}


def of_the_page() -> Variables:
    """Return the variables that the page names."""
    return dict.fromkeys(re.findall(r"\b(?:IBEX|OPENAI|OTEL)_[A-Z_]+", (ROOT / "docs" / "deployment.md").read_text()))


@pytest.mark.parametrize("read", [of_compose, of_the_image, of_the_units, of_the_chart, of_the_page])
def test_every_variable_is_a_setting(read: Callable[[], Variables]) -> None:
    """IBEX would ignore a misspelled one, or refuse to start."""
    names = {name for name in read() if OF_IBEX.match(name)} - OF_COMMANDS

    assert names
    assert unknown_settings(names) == set()
