"""From a request's bytes to those that the provider gets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from benchmarks.stages.scene import BODIES

from harness.chat_scene import DIRECTIVE
from ibex.adapters.http_server.chat_request import read_chat_request
from ibex.domain.directives.model import InjectionMode, inject
from ibex.domain.proxying.chat import encode_object

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

pytestmark = pytest.mark.benchmark(group="2 request")


@pytest.mark.parametrize("size", BODIES)
def test_read_request(benchmark: BenchmarkFixture, size: str) -> None:
    """Split the body and judge what is understood of it."""
    assert benchmark(read_chat_request, BODIES[size]).model == "gpt-4o"


@pytest.mark.parametrize("size", BODIES)
def test_hash_messages(benchmark: BenchmarkFixture, size: str) -> None:
    """SHA-256 of the messages as the client wrote them."""
    request = read_chat_request(BODIES[size])

    assert benchmark(request.messages_hash)


@pytest.mark.parametrize("mode", InjectionMode)
def test_inject_at_10_messages(benchmark: BenchmarkFixture, mode: InjectionMode) -> None:
    """Put the directive among ten messages and write the body anew."""
    request, directive = read_chat_request(BODIES["10_messages"]), replace(DIRECTIVE, mode=mode)

    assert benchmark(inject, request, directive).body != request.body


def test_encode_request(benchmark: BenchmarkFixture) -> None:
    """Join the raw members of a request of ten messages."""
    members = read_chat_request(BODIES["10_messages"]).members

    assert benchmark(encode_object, members)


def test_ask_for_usage(benchmark: BenchmarkFixture) -> None:
    """Set ``stream_options.include_usage`` on a stream's request."""
    request = read_chat_request(BODIES["10_messages"][:-1] + b', "stream": true}')

    assert benchmark(request.asking_for_usage).wants_usage
