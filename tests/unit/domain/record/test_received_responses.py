"""The lookup of the agent that received a response."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from harness.exchanges import an_exchange
from harness.memory.responses import InMemoryResponses
from ibex.domain.errors import ServiceDegradedError
from ibex.domain.record.received_responses import MAX_REMEMBERED, ReceivedResponses, received_response_of
from ibex.domain.record.summary import ResponseSummary

ORG = UUID(int=5)
OTHER = UUID(int=99)
EXCHANGE = replace(an_exchange(), summary=ResponseSummary(response_id="resp_1"))
KEPT = received_response_of(EXCHANGE)


class Desk:
    """The memory of a worker, a shared cache and a record."""

    def __init__(self) -> None:
        self.record, self.shared = InMemoryResponses(), InMemoryResponses()
        self.responses = ReceivedResponses(self.record, self.shared)


def test_a_received_response_has_the_identifiers_of_its_exchange() -> None:
    """They are the agent, the session, the provider and the version of the directive."""
    assert KEPT is not None
    assert (KEPT.id, KEPT.org_id, KEPT.agent_id) == ("resp_1", ORG, UUID(int=7))
    assert (KEPT.session_handle, KEPT.provider, KEPT.directive_version_id) == ("conversation-1", "openai", UUID(int=9))


@pytest.mark.parametrize(
    "exchange",
    [an_exchange(), replace(EXCHANGE, session=None), replace(EXCHANGE, caller=None), replace(EXCHANGE, provider=None)],
)
async def test_an_exchange_without_a_named_response_is_not_remembered(exchange: object) -> None:
    """It lacks the response's id, the session, the caller or the provider."""
    desk = Desk()
    assert received_response_of(exchange) is None  # type: ignore[arg-type]
    await desk.responses.remember(exchange)  # type: ignore[arg-type]
    assert desk.shared.kept == {}


async def test_a_worker_finds_its_own_response_in_its_memory() -> None:
    """It reads neither the record nor the shared cache."""
    desk = Desk()
    desk.record.fails = desk.shared.fails = True
    await desk.responses.remember(EXCHANGE)

    assert await desk.responses.find(ORG, "resp_1") == KEPT
    assert (desk.record.asked, desk.shared.asked) == (0, 0)


async def test_another_worker_finds_a_response_in_the_shared_cache() -> None:
    """The response is not in the record yet."""
    desk = Desk()
    await desk.responses.remember(EXCHANGE)

    assert await ReceivedResponses(desk.record, desk.shared).find(ORG, "resp_1") == KEPT
    assert desk.record.asked == 0


async def test_an_old_response_is_found_in_the_record() -> None:
    """The shared cache no longer has it."""
    desk = Desk()
    assert KEPT is not None
    desk.record.kept[ORG, "resp_1"] = KEPT
    assert await desk.responses.find(ORG, "resp_1") == KEPT


async def test_another_organization_does_not_find_a_response() -> None:
    """The id of a response is not enough."""
    desk = Desk()
    await desk.responses.remember(EXCHANGE)
    assert await desk.responses.find(OTHER, "resp_1") is None


@pytest.mark.parametrize(("record_fails", "shared_fails"), [(True, False), (False, True), (True, True)])
async def test_an_unknown_response_raises_while_a_source_is_unavailable(
    *, record_fails: bool, shared_fails: bool
) -> None:
    """It may have been received a moment ago, so it must not be reported as absent."""
    desk = Desk()
    desk.record.fails, desk.shared.fails = record_fails, shared_fails
    with pytest.raises(ServiceDegradedError):
        await desk.responses.find(ORG, "resp_1")


async def test_the_memory_for_responses_is_bounded() -> None:
    """The oldest response is evicted first."""
    desk = Desk()
    for number in range(MAX_REMEMBERED + 1):
        await desk.responses.remember(replace(EXCHANGE, summary=ResponseSummary(response_id=f"resp_{number}")))
    desk.shared.kept.clear()

    assert await desk.responses.find(ORG, "resp_0") is None
    assert await desk.responses.find(ORG, "resp_1") is not None
