"""USE CASE: admit a caller. Authenticate it, verify its agent, and count the request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ibex.domain.errors import (
    AgentNotAuthorizedError,
    AgentSuspendedError,
    AuthUnavailableError,
    FieldCode,
    FieldError,
    IbexError,
    InsufficientPermissionsError,
    MissingAgentIdError,
    MissingTokenError,
    RateLimitedError,
    ServiceDegradedError,
    TooManyGuessesError,
    TooManyLookupsError,
    ValidationError,
)
from ibex.domain.freshness.kinds import unknown_epoch
from ibex.domain.identity.model import AgentStatus
from ibex.domain.identity.permissions import CHAT, Permission, allows
from ibex.domain.identity.rate_limits import decide
from ibex.domain.ids import parse_uuid
from ibex.domain.proxying.refused_requests import seconds_left
from ibex.domain.record.exchange import Caller, Stage
from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime
    from uuid import UUID

    from ibex.domain.freshness.kinds import Epoch
    from ibex.domain.identity.cache import AgentLookup, CachedAgents, CachedTokens, TokenLookup
    from ibex.domain.identity.model import Agent, Principal
    from ibex.domain.identity.rate_limits import RateLimiter
    from ibex.domain.proxying.refused_requests import RefusedRequests
    from ibex.domain.record.in_flight import InFlightExchange

AGENT_FIELD = "agent_id"
"""The field of ``FieldError`` for the agent's id. Adapters replace it with the name in their protocol."""
MAX_RECHECKS = 3
"""How often one request is checked again. Waiting for one entry may outdate the other."""
MAX_EPOCH_AGE_NS = 1_000_000_000
"""The maximum age of an epoch reading. An older one is repeated before the provider is asked."""
_REFUSALS = (
    InsufficientPermissionsError,
    MissingAgentIdError,
    ValidationError,
    AgentNotAuthorizedError,
    RateLimitedError,
)


@value_object
class Credentials:
    """The client's credentials, not verified; None for those that it did not send. The repr shows no token."""

    token: str | None
    agent_id: str | None = None
    org_id: str | None = None

    def __repr__(self) -> str:
        return f"<Credentials agent_id={self.agent_id!r} org_id={self.org_id!r}>"


@dataclass(slots=True)
class Admitted:
    """The entries by which a caller was admitted. They are validated again before the provider is asked.

    ``principal`` is the one whose permission and binding were checked.
    """

    credentials: Credentials
    permission: Permission
    principal: Principal
    token: TokenLookup
    agent: AgentLookup
    epoch: Epoch


class Admission:
    """Admits verified callers and records them in the exchange; raises the refusals of ``errors`` for all others.

    A token never changes its organization, so the cached token names the organization before it is validated. One round
    trip counts the request and reads the organization's epoch. By that epoch the cached token and agent are validated,
    or fetched again.

    For an organization beyond its limit of refusals, only requests that may be admitted cause calls to other services:
    agents that are not cached are not looked up, and a request is refused without a round trip if the cached entries
    that decide it were confirmed a moment ago (ADR 0041).
    """

    def __init__(
        self,
        tokens: CachedTokens,
        agents: CachedAgents,
        rate_limiter: RateLimiter,
        refused: RefusedRequests,
        *,
        default_rpm: int,
        refusal_delay_s: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Set ``default_rpm``, the rate limit of organizations that set none, in requests per minute.

        ``refusal_delay_s`` is the delay of a refusal beyond the limit of refusals, in seconds.
        """
        self._tokens = tokens
        self._agents = agents
        self._rate_limiter = rate_limiter
        self._refused = refused
        self._default_rpm = default_rpm
        self._refusal_delay_s = refusal_delay_s
        self._sleep = sleep

    async def __call__(
        self, credentials: Credentials, in_flight: InFlightExchange, permission: Permission = CHAT
    ) -> Admitted:
        """Admit a caller that acts as an agent and has ``permission``; return the entries that admitted it.

        Sets ``in_flight.caller``. Raises the refusals of ``errors``.
        """
        try:
            in_flight.enter(Stage.AUTHENTICATE)
            cached, token, agent = await self._look_up(credentials, in_flight, permission)
            now = in_flight.clock.now()
            in_flight.enter(Stage.RATE_LIMIT)
            if self._refused.beyond:
                self._refuse_at_once(token, agent, in_flight, now)
            tally = await self._rate_limiter.count(cached.org_id, now)
            in_flight.enter(Stage.AUTHENTICATE)
            epoch = tally.epoch
            principal = await self._validate_token(token, epoch, in_flight)
            if token.is_stale:  # the failed fetch may have taken long, and the agent needs a recent reading
                epoch = await self._rate_limiter.epoch(cached.org_id)
            active = await self._check_active(agent, epoch, in_flight)
            if principal is not cached:
                _check_permission(principal, credentials, permission)
                _check_binding(principal, active.id)
            in_flight.enter(None)
            in_flight.auth_cached = token.from_cache and agent.from_cache
            in_flight.auth_stale = token.is_stale or agent.is_stale
            own = principal.rate_limit_rpm
            in_flight.limit_rpm = self._default_rpm if own is None else own
            self._check_limit(tally.count, in_flight, now)
        except IbexError as error:
            self._refused.note(in_flight, error)
            raise
        return Admitted(credentials, permission, principal, token, agent, epoch)

    async def recheck(self, admitted: Admitted, in_flight: InFlightExchange) -> Epoch:
        """Validate the token and the agent again, and return the reading of the epoch that confirms them.

        Reading a slow body may have taken a minute. Raises the same refusals as admission, and ``ServiceDegradedError``
        after ``MAX_RECHECKS`` attempts.
        """
        for _ in range(MAX_RECHECKS):
            if in_flight.clock.monotonic_ns() - admitted.epoch.asked_ns > MAX_EPOCH_AGE_NS:
                admitted.epoch = await self._rate_limiter.epoch(admitted.token.value.org_id)
            if self.is_current(admitted, in_flight.clock.monotonic_ns()):
                return admitted.epoch
            principal = await self._validate_token(admitted.token, admitted.epoch, in_flight)
            agent = await self._check_active(admitted.agent, admitted.epoch, in_flight)
            if principal is not admitted.principal:
                _check_permission(principal, admitted.credentials, admitted.permission)
                _check_binding(principal, agent.id)
                admitted.principal = principal
            in_flight.auth_stale = admitted.token.is_stale or admitted.agent.is_stale
        raise ServiceDegradedError

    def is_current(self, admitted: Admitted, now_ns: int) -> bool:
        """Return whether token and agent are both valid now, by the last reading of the epoch. Does no I/O."""
        return self._are_valid(admitted.token, admitted.agent, admitted.epoch, now_ns)

    def _are_valid(self, token: TokenLookup, agent: AgentLookup, epoch: Epoch, now_ns: int) -> bool:
        return self._tokens.is_valid(token, epoch, now_ns) and self._agents.is_valid(agent, epoch, now_ns)

    async def authenticate(
        self, credentials: Credentials, in_flight: InFlightExchange, permission: Permission = CHAT
    ) -> Principal:
        """Return the principal of a caller that has ``permission``. Needs no agent, and does not count the request.

        Raises the refusals of ``errors``.
        """
        try:
            token = await self._look_up_token(credentials, in_flight)
            principal = token.value
            if not self._was_confirmed_recently(token, in_flight):
                principal = await self._tokens.validate(token, await self._rate_limiter.epoch(principal.org_id))
            _check_permission(principal, credentials, permission)
        except IbexError as error:
            self._refused.note(in_flight, error)
            raise
        return principal

    def note_refusal(self, in_flight: InFlightExchange, error: IbexError) -> None:
        """Count a refusal that follows admission. The refusals of this use case are counted already."""
        self._refused.note(in_flight, error)

    async def delay_refusal(self, in_flight: InFlightExchange, error: IbexError) -> None:
        """Delay the response to a refusal beyond a limit of refusals or lookups; return at once for any other.

        Without the delay, a client that repeats such requests at once would take CPU time from other organizations.
        """
        if in_flight.is_excess_refusal or isinstance(error, TooManyGuessesError | TooManyLookupsError):
            await self._sleep(self._refusal_delay_s)

    def _check_limit(self, count: int, in_flight: InFlightExchange, now: datetime) -> None:
        decision = in_flight.rate_limit = decide(count=count, limit=in_flight.limit_rpm, now=now)
        if self._refused.beyond and in_flight.caller is not None:
            self._refused.requests_counted(in_flight.caller.org_id, now, count, allowed=decision.allowed)
        if not decision.allowed:
            limit = "1 request" if in_flight.limit_rpm == 1 else f"{in_flight.limit_rpm} requests"
            raise RateLimitedError(
                f"The organization has reached its limit of {limit} per minute. Retry later.",
                retry_after_s=decision.retry_after_s,
            )

    def _refuse_at_once(
        self, token: TokenLookup, agent: AgentLookup, in_flight: InFlightExchange, now: datetime
    ) -> None:
        """Refuse a request without counting it if the limit is known to be exceeded and the caller is valid.

        This is safe because the count only grows within a minute. If token and agent were not confirmed a moment ago,
        the round trip confirms them, so that a revoked token is refused as invalid.
        """
        count = self._refused.requests_over_limit(token.value.org_id, now)
        now_ns, unknown = _unknown_epoch_now(in_flight)
        if count and self._are_valid(token, agent, unknown, now_ns):
            in_flight.enter(None)
            in_flight.auth_cached = token.from_cache and agent.from_cache
            self._check_limit(count, in_flight, now)

    def _was_confirmed_recently(self, token: TokenLookup, in_flight: InFlightExchange) -> bool:
        if not self._refused.is_beyond(token.value.org_id, in_flight.clock.now()):
            return False
        now_ns, unknown = _unknown_epoch_now(in_flight)
        return self._tokens.is_valid(token, unknown, now_ns)

    async def _look_up(
        self, credentials: Credentials, in_flight: InFlightExchange, permission: Permission
    ) -> tuple[Principal, TokenLookup, AgentLookup]:
        """Return the cached token and agent, and the principal whose permission and binding were checked.

        Before a refusal the token is validated, so that a revoked one never reveals details of its organization.
        A refused request does not count towards the rate limit: a client that repeats it must not use up the requests
        of the organization's other clients.
        """
        token = await self._look_up_token(credentials, in_flight)
        cached = token.entry.value
        org_id = cached.org_id
        try:
            _check_permission(cached, credentials, permission)
            agent = await self._look_up_agent(cached, credentials.agent_id, in_flight)
        except _REFUSALS:
            if token.from_cache and not self._was_confirmed_recently(token, in_flight):
                await self._tokens.validate(token, await self._rate_limiter.epoch(org_id))
            raise
        found = agent.entry.value
        if found is None or found.status is not AgentStatus.ACTIVE:
            found = await self._validate_inactive(token, agent, in_flight)
        in_flight.caller = Caller.of(cached, found.id)
        return cached, token, agent

    async def _validate_inactive(self, token: TokenLookup, agent: AgentLookup, in_flight: InFlightExchange) -> Agent:
        """Return the agent if it is active by now. Raises ``AgentSuspendedError`` and the errors of the caches."""
        now_ns, unknown = _unknown_epoch_now(in_flight)
        if self._was_confirmed_recently(token, in_flight) and self._agents.is_valid(agent, unknown, now_ns):
            raise AgentNotAuthorizedError if agent.value is None else AgentSuspendedError
        epoch = await self._rate_limiter.epoch(token.value.org_id)
        await self._tokens.validate(token, epoch)
        return await self._check_active(agent, epoch, in_flight)

    async def _look_up_token(self, credentials: Credentials, in_flight: InFlightExchange) -> TokenLookup:
        lookup = await self._tokens.look_up(_token_in(credentials))
        principal = lookup.entry.value
        own = principal.rate_limit_rpm
        in_flight.caller = Caller.of(principal)
        in_flight.limit_rpm = self._default_rpm if own is None else own
        return lookup

    async def _look_up_agent(
        self, principal: Principal, claimed: str | None, in_flight: InFlightExchange
    ) -> AgentLookup:
        agent_id = _agent_id(claimed) if claimed is not None else principal.agent_id
        if agent_id is None:
            raise MissingAgentIdError
        _check_binding(principal, agent_id)
        if self._refused.beyond and self._agents.cached(principal.org_id, agent_id) is None:
            now = in_flight.clock.now()
            if self._refused.is_beyond(principal.org_id, now):
                raise RateLimitedError(
                    "Too many requests of the organization were refused in this minute. Correct them and retry later.",
                    retry_after_s=seconds_left(now),
                )
        return await self._agents.look_up(principal.org_id, agent_id)

    async def _validate_token(self, lookup: TokenLookup, epoch: Epoch, in_flight: InFlightExchange) -> Principal:
        try:
            return await self._tokens.validate(lookup, epoch)
        except ServiceDegradedError:
            if not _is_too_old(epoch, in_flight):
                raise
        # Auth took so long to fail that the epoch no longer proves that nothing has changed.
        return await self._tokens.validate(lookup, await self._rate_limiter.epoch(lookup.value.org_id))

    async def _check_active(self, lookup: AgentLookup, epoch: Epoch, in_flight: InFlightExchange) -> Agent:
        try:
            agent = await self._agents.validate(lookup, epoch)
        except AuthUnavailableError:
            if not _is_too_old(epoch, in_flight) or in_flight.caller is None:
                raise
            agent = await self._agents.validate(lookup, await self._rate_limiter.epoch(in_flight.caller.org_id))
        if agent.status is not AgentStatus.ACTIVE:
            raise AgentSuspendedError
        return agent


def _is_too_old(epoch: Epoch, in_flight: InFlightExchange) -> bool:
    return in_flight.clock.monotonic_ns() - epoch.asked_ns > MAX_EPOCH_AGE_NS


def _unknown_epoch_now(in_flight: InFlightExchange) -> tuple[int, Epoch]:
    """Return the time and an epoch that proves nothing, so that the watch alone decides."""
    now_ns = in_flight.clock.monotonic_ns()
    return now_ns, unknown_epoch(now_ns)


def _check_binding(principal: Principal, agent_id: UUID) -> None:
    """Raise ``AgentNotAuthorizedError`` if the token is bound to another agent."""
    bound = principal.agent_id
    if bound is not None and bound is not agent_id and bound != agent_id:
        raise AgentNotAuthorizedError


def _check_permission(principal: Principal, credentials: Credentials, permission: Permission) -> None:
    """Raise ``InsufficientPermissionsError`` without the permission, or if the path names another organization."""
    foreign_path = credentials.org_id is not None and credentials.org_id.lower() != str(principal.org_id)
    if foreign_path or not allows(principal.permissions, permission):
        raise InsufficientPermissionsError


def _token_in(credentials: Credentials) -> str:
    if credentials.token is None:
        raise MissingTokenError
    return credentials.token


def _agent_id(claimed: str) -> UUID:
    found = parse_uuid(claimed)
    if found is None:
        raise ValidationError((FieldError(AGENT_FIELD, FieldCode.INVALID_FORMAT, "must be a UUID"),))
    return found
