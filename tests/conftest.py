"""Fixtures that start the real servers live in ``harness``, one module a server."""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
import uvloop
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

pytest_plugins = [
    "harness.clickhouse",
    "harness.openai",
    "harness.pgbouncer",
    "harness.postgres",
    "harness.redis",
    "harness.redis_topologies",
]

# The same examples each time, so that a test that passes passes again; ``make fuzz`` looks for others, and many.
settings.register_profile("short", derandomize=True, deadline=None)
settings.register_profile("long", max_examples=int(os.environ.get("EXAMPLES", "5000")), deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))

DESCRIPTORS_LEFT = 200
"""What a module may leave open: fixtures of the session that it starts. The engine in this process opens about 110."""

_LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run what is marked with ``both_loops`` on both, the rest on asyncio's own."""
    del config
    return _LOOPS if item.get_closest_marker("both_loops") else {"asyncio": asyncio.new_event_loop}


def pytest_collection_finish() -> None:
    """Exempt what exists by now, tests and modules, from collections: it lives to the end, and looking takes long."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _few_descriptors_stay_open() -> Iterator[None]:
    """Fail if a module leaves many file descriptors open: ``select`` takes none above 1,023."""
    descriptors = Path("/dev/fd")
    before = len(list(descriptors.iterdir()))
    yield
    left = len(list(descriptors.iterdir())) - before
    assert left <= DESCRIPTORS_LEFT, f"the tests of this module have left {left} file descriptors open"


@pytest.fixture(scope="session", autouse=True)
def _one_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let TLS trust one authority instead of all that the machine knows.

    Tests make HTTP clients by the hundred, most of which speak no TLS, and reading them all takes each 20 ms or more.
    """
    file = tmp_path_factory.mktemp("authority") / "authority.pem"
    trustme.CA().cert_pem.write_to_path(str(file))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(file))
        yield
