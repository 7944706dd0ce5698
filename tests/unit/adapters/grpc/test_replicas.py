"""Tests of the addresses of auth."""

from __future__ import annotations

import pytest

from ibex.adapters.grpc.replicas import Endpoint, endpoints_in


@pytest.mark.parametrize(
    ("address", "endpoints"),
    [
        ("auth:9091", (Endpoint("auth", 9091),)),
        ("dns:///auth.svc:9091", (Endpoint("auth.svc", 9091),)),
        ("10.0.0.1:1, 10.0.0.2:2", (Endpoint("10.0.0.1", 1), Endpoint("10.0.0.2", 2))),
        ("[::1]:9091,auth:1", (Endpoint("::1", 9091), Endpoint("auth", 1))),
    ],
)
def test_an_address_names_endpoints(address: str, endpoints: tuple[Endpoint, ...]) -> None:
    """It has one endpoint or several, each with a host name or an IP address."""
    assert endpoints_in(address) == endpoints


@pytest.mark.parametrize("address", ["", ",", "auth", ":9091", "auth:", "auth:x", "auth:1,"])
def test_an_invalid_address_is_refused(address: str) -> None:
    """This covers every kind of mistake."""
    with pytest.raises(ValueError, match=r"host:port|invalid literal"):
        endpoints_in(address)


def test_an_endpoint_has_the_form_of_a_grpc_target() -> None:
    """An IPv6 address is in brackets. Only IP addresses are targets."""
    assert [Endpoint(host, 1).target for host in ("10.0.0.1", "::1")] == ["ipv4:10.0.0.1:1", "ipv6:[::1]:1"]
    assert [Endpoint(host, 1).is_address for host in ("10.0.0.1", "::1", "auth")] == [True, True, False]
