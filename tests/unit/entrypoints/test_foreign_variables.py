"""Variables that the platform sets and IBEX cannot use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ibex.entrypoints.foreign_variables import ignored_variables, is_of_kubernetes
from ibex.entrypoints.settings import Settings, SettingsError, variables
from ibex.entrypoints.settings_reference import COMMAND_LINE

if TYPE_CHECKING:
    from pathlib import Path

LINK = "tcp://10.0.0.1:8080"
OF_THE_SERVICE_IBEX = {
    "IBEX_SERVICE_HOST": "10.0.0.1",
    "IBEX_SERVICE_PORT": "8080",
    "IBEX_SERVICE_PORT_HTTP_METRICS": "8081",
    "IBEX_PORT": LINK,
    "IBEX_PORT_8080_TCP": LINK,
    "IBEX_PORT_8080_TCP_PROTO": "tcp",
    "IBEX_PORT_8080_TCP_PORT": "8080",
    "IBEX_PORT_8080_TCP_ADDR": "10.0.0.1",
}


def test_variables_of_kubernetes_are_recognized() -> None:
    """This covers the Service ``ibex``, and any whose name begins with ``ibex-``."""
    of_auth = {name.replace("IBEX_", "IBEX_AUTH_GRPC_2_"): value for name, value in OF_THE_SERVICE_IBEX.items()}
    for name, value in (OF_THE_SERVICE_IBEX | of_auth).items():
        assert is_of_kubernetes(name, value), name


@pytest.mark.parametrize("value", ["8080", "", "high", "tcp:8080"])
def test_a_port_that_is_not_a_link_is_a_setting(value: str) -> None:
    """A wrong value of it is an error as before."""
    assert not is_of_kubernetes("IBEX_PORT", value)


def test_no_setting_is_mistaken_for_a_variable_of_kubernetes() -> None:
    """All settings can be set, with any value but a link as the port."""
    for name in (*(variable.name for _, variable in variables()), *COMMAND_LINE):
        assert not is_of_kubernetes(name, "8080"), name


def test_settings_ignore_the_variables_of_kubernetes_with_one_message() -> None:
    """The defaults apply. Other commands are not affected."""
    assert Settings.load(OF_THE_SERVICE_IBEX) == Settings.load({})
    (message,) = ignored_variables(OF_THE_SERVICE_IBEX, [variable for _, variable in variables()])
    assert message.startswith(f"Ignored variables that Kubernetes sets for a Service (8, such as IBEX_PORT={LINK}).")


def test_an_invalid_value_of_a_setting_of_ibex_is_still_an_error() -> None:
    """Only the variables that the platform shares with other programs are ignored."""
    with pytest.raises(SettingsError, match="IBEX_PORT is 'tcp:8080'"):
        Settings.load({"IBEX_PORT": "tcp:8080"})
    assert ignored_variables({"IBEX_PORT": "high"}, [variable for _, variable in variables()]) == []


def test_a_port_in_a_file_counts_beside_a_variable_of_kubernetes(tmp_path: Path) -> None:
    """The variable is not a value, so the setting is not set twice."""
    file = tmp_path / "port"
    file.write_text("8090\n")

    assert Settings.load({"IBEX_PORT": "tcp://10.0.0.1:8080", "IBEX_PORT_FILE": str(file)}).port == 8090


def test_an_opentelemetry_setting_with_an_invalid_file_is_ignored_with_a_message(tmp_path: Path) -> None:
    """It is treated like an invalid value of the variable itself."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT_FILE": str(tmp_path / "absent")}

    assert Settings.load(environ).traces_url is None
    (message,) = ignored_variables(environ, [variable for _, variable in variables()])
    assert message.startswith("OTEL_EXPORTER_OTLP_ENDPOINT_FILE is ")
    assert message.endswith(" It is ignored.")
