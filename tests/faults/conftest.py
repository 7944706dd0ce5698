"""Fixtures of the fault tests: a proxy between misbehaving clients and a misbehaving provider."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.loopback import Loopback
from harness.openai import ScriptedOpenAI

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def shared_proxy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """One proxy for all tests of a module, with the module's ``SETTINGS``, if it has any."""
    settings = getattr(request.module, "SETTINGS", {})
    folder = tmp_path_factory.mktemp("journal")
    with ScriptedOpenAI.in_thread() as provider, Loopback.running(provider, folder, **settings) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared_proxy: Loopback) -> Iterator[Loopback]:
    """The module's proxy for one test. Afterwards it must serve the next request without a restart."""
    shared_proxy.provider.requests.clear()
    yield shared_proxy
    shared_proxy.assert_healthy()
