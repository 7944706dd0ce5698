"""The stages from the client's bytes to those for the provider."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from benchmarks.stages.scene import BODIES

from harness.chat_requests import inject, parse
from harness.chat_scene import DIRECTIVE
from ibex.adapters.openai_api.raw_json import encode_object
from ibex.domain.directives.model import InjectionMode

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

pytestmark = pytest.mark.benchmark(group="2 request")


@pytest.mark.parametrize("size", BODIES)
def test_read_request(benchmark: BenchmarkFixture, size: str) -> None:
    """Split the body and validate the members that IBEX reads."""
    assert benchmark(parse, BODIES[size]).model == "gpt-4o"


@pytest.mark.parametrize("size", BODIES)
def test_hash_messages(benchmark: BenchmarkFixture, size: str) -> None:
    """Compute SHA-256 of the messages as the client wrote them."""
    request = parse(BODIES[size])

    assert benchmark(request.content_hash)


@pytest.mark.parametrize("mode", InjectionMode)
def test_inject_at_10_messages(benchmark: BenchmarkFixture, mode: InjectionMode) -> None:
    """Inject the directive into ten messages and write the body again."""
    request, directive = parse(BODIES["10_messages"]), replace(DIRECTIVE, mode=mode)

    assert benchmark(inject, request, directive).body != request.body


def test_encode_request(benchmark: BenchmarkFixture) -> None:
    """Join the raw members of a request of ten messages."""
    members = parse(BODIES["10_messages"]).members

    assert benchmark(encode_object, members)


def test_ask_for_usage(benchmark: BenchmarkFixture) -> None:
    """Set ``stream_options.include_usage`` on a streaming request."""
    request = parse(BODIES["10_messages"][:-1] + b', "stream": true}')

    assert benchmark(request.asking_for_usage).wants_usage
