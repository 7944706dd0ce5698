"""Variables that the platform sets and IBEX cannot use: they cause one warning each time IBEX starts, and no error.

Kubernetes sets variables in every pod for each Service. Those of a Service whose name begins with ``ibex`` look like
settings: a Service ``ibex`` causes ``IBEX_PORT=tcp://10.0.0.1:8080``, a Service ``ibex-auth`` ``IBEX_AUTH_PORT=tcp://…``
(ADR 0062).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ibex.entrypoints.setting_files import parsed, raw_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ibex.entrypoints.setting_values import Variable

_OF_A_SERVICE: Final = re.compile(
    r"IBEX(_[A-Z0-9]+)*?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_PORT_OF_A_SERVICE: Final = re.compile(r"IBEX(_[A-Z0-9]+)*?_PORT")
_LINK: Final = re.compile(r"(tcp|udp|sctp)://")
_OPENTELEMETRY: Final = "OTEL_"


def is_of_kubernetes(name: str, value: str) -> bool:
    """Return whether Kubernetes sets this variable for a Service. ``IBEX_PORT=8080`` is not one of those."""
    if _OF_A_SERVICE.fullmatch(name):
        return True
    return _PORT_OF_A_SERVICE.fullmatch(name) is not None and _LINK.match(value) is not None


def without_kubernetes(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the variables that Kubernetes sets for Services."""
    return {name: value for name, value in environ.items() if not is_of_kubernetes(name, value.strip())}


def is_of_opentelemetry(name: str) -> bool:
    """Return whether the platform shares this variable with other programs, so that IBEX may not refuse its value."""
    return name.startswith(_OPENTELEMETRY)


def ignored_variables(environ: Mapping[str, str], variables: Iterable[Variable]) -> Sequence[str]:
    """Return a message for the variables of Kubernetes, and one for each OpenTelemetry setting with an invalid value.

    ``variables`` are the settings.
    """
    messages = []
    of_kubernetes = sorted(name for name, value in environ.items() if is_of_kubernetes(name, value))
    if of_kubernetes:
        first = of_kubernetes[0]
        messages.append(
            f"Ignored variables that Kubernetes sets for a Service ({len(of_kubernetes)}, such as"
            f" {first}={environ[first]}). Set enableServiceLinks: false in the pod to avoid them."
        )
    for variable in variables:
        if not is_of_opentelemetry(variable.name):
            continue
        try:
            value, path = raw_value(environ, variable)
            if value:
                parsed(variable, value, path)
        except ValueError as wrong:
            messages.append(f"{wrong} It is ignored.")
    return messages
