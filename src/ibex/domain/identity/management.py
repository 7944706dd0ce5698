"""USE CASES: manage organizations, users, agents and tokens; verify tokens and agents against the store."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from ibex.domain.errors import (
    AgentNotAuthorizedError,
    AgentSourceUnavailableError,
    InvalidTokenError,
    NotFoundError,
    ServiceDegradedError,
    TokenSourceUnavailableError,
)
from ibex.domain.freshness.cache import Fetched
from ibex.domain.freshness.epochs import Changes
from ibex.domain.identity.model import AgentStatus, PersonalAccessToken, Principal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from ibex.domain.clock import Clock
    from ibex.domain.freshness.epochs import Epochs
    from ibex.domain.identity.model import Agent
    from ibex.domain.identity.permissions import Permission
    from ibex.domain.identity.token_hash import TokenPeppers
    from ibex.domain.ids import IdSource


class OrganizationStatus(StrEnum):
    """The status of an organization. Tokens are refused unless their organization is active."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True)
class Organization:
    """A tenant. ``rate_limit_rpm`` is requests per minute, 0 for unlimited, None for the deployment's default."""

    id: UUID
    name: str
    status: OrganizationStatus
    rate_limit_rpm: int | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class User:
    """A person of an organization."""

    id: UUID
    org_id: UUID
    email: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NamedAgent:
    """An agent with its name, for operators."""

    id: UUID
    org_id: UUID
    name: str
    status: AgentStatus
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StoredToken:
    """The stored record of a token, with a digest instead of the token. Times are UTC; None for never."""

    id: UUID
    org_id: UUID
    name: str
    permissions: Permission
    key_id: str
    digest: bytes
    user_id: UUID | None
    agent_id: UUID | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    def __repr__(self) -> str:
        return f"<StoredToken ibex_pat_{self.id}>"


@dataclass(frozen=True, slots=True)
class TokenPosition:
    """A position in the list of an organization's tokens: after the token with this id, created at this time in UTC."""

    created_at: datetime
    id: UUID


class IdentityStore(Protocol):
    """Port: the store of identity. Every method raises ``ServiceDegradedError`` while the store is unavailable.

    A change raises ``OutcomeUnknownError`` if its commit is not answered within two seconds. Adding something to an
    organization that does not exist raises ``NotFoundError``.
    """

    async def find_token(self, token_id: UUID) -> tuple[StoredToken, Organization] | None:
        """Return the token and its organization, whatever their status; None if there is no such token. Read-only."""

    async def find_agent(self, org_id: UUID, agent_id: UUID) -> Agent | None:
        """Return the organization's agent; None if it has no such agent. Read-only."""

    async def add_organization(self, organization: Organization) -> None:
        """Store a new organization. Raises ``AlreadyExistsError`` if the name is taken."""

    async def organizations(self) -> Sequence[Organization]:
        """Return all organizations, oldest first."""

    async def set_organization_status(self, org_id: UUID, status: OrganizationStatus) -> bool:
        """Change an organization's status. Return False if there is no such organization."""

    async def set_organization_rate_limit(self, org_id: UUID, rate_limit_rpm: int | None) -> bool:
        """Change an organization's rate limit; see ``Organization``. Return False if there is no such organization."""

    async def add_user(self, user: User) -> None:
        """Store a new user. Raises ``AlreadyExistsError`` if the organization has a user with this e-mail address."""

    async def add_agent(self, agent: NamedAgent) -> None:
        """Store a new agent. Raises ``AlreadyExistsError`` if the organization has an agent with this name."""

    async def agents(self, org_id: UUID) -> Sequence[NamedAgent]:
        """Return the organization's agents, oldest first."""

    async def set_agent_status(self, org_id: UUID, agent_id: UUID, status: AgentStatus) -> bool:
        """Change an agent's status. Return False if the organization has no such agent."""

    async def add_token(self, token: StoredToken) -> None:
        """Store a new token. Raises ``NotFoundError`` if its agent or user does not belong to the organization."""

    async def tokens(
        self, org_id: UUID, after: TokenPosition | None = None, limit: int | None = None
    ) -> Sequence[StoredToken]:
        """Return the organization's tokens, also revoked and expired ones, ordered by time of creation and id.

        ``after`` skips the tokens up to a position, where a token need not exist. ``limit`` is the maximum number.
        """

    async def live_tokens_by_key(self, now: datetime) -> Mapping[str, int]:
        """Return the number of tokens that are neither revoked nor expired, by the key id of their pepper.

        Counts the tokens of all organizations.
        """

    async def revoke_token(self, org_id: UUID, token_id: UUID, now: datetime) -> bool:
        """Revoke a token. Return False if the organization has no such token. A second call keeps the first time."""


MAX_NAME_CHARACTERS = 128
MAX_RATE_LIMIT_RPM = (1 << 31) - 1
"""The largest limit of requests per minute that an organization can have; 0 is unlimited."""
MAX_REMEMBERED_ORGANIZATIONS = 50_000


def check_name(name: str) -> str:
    """Return the name if it has 1 to 128 printable characters; otherwise raise ``ValueError``."""
    if not len(name.strip()) >= 1 or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise ValueError(f"A name must have 1 to {MAX_NAME_CHARACTERS} printable characters, at least one not a space.")
    return name


def check_rate_limit(rate_limit_rpm: int | None) -> int | None:
    """Return the limit of an ``Organization`` if it is None or in range; otherwise raise ``ValueError``."""
    if rate_limit_rpm is not None and not 0 <= rate_limit_rpm <= MAX_RATE_LIMIT_RPM:
        allowed = f"0 (unlimited) to {MAX_RATE_LIMIT_RPM:,} requests per minute"
        raise ValueError(f"The rate limit must be {allowed}, not {rate_limit_rpm:,}.")
    return rate_limit_rpm


class AlreadyExistsError(Exception):
    """An object with this name exists already. The message contains its kind."""


class VerifyToken:
    """A ``TokenVerifier`` that reads the store.

    The epoch must be read before the token, but only the token names the organization. A token never changes its
    organization, so this class remembers it; a token that it has not seen before is read twice.
    """

    def __init__(self, store: IdentityStore, peppers: TokenPeppers, epochs: Epochs, clock: Clock) -> None:
        self._store = store
        self._peppers = peppers
        self._epochs = epochs
        self._clock = clock
        self._organizations: OrderedDict[UUID, UUID] = OrderedDict()

    async def verify(self, token: PersonalAccessToken) -> Fetched[Principal]:
        """Return the token's principal and the epoch that was read before it; see ``TokenVerifier``."""
        org_id = await self._organization_of(token)
        epoch = await self._epochs.read_or_create(org_id)
        found = await self._find(token)
        if found is None:
            self._peppers.compare_dummy(token)
            raise InvalidTokenError
        stored, organization = found
        genuine = self._peppers.matches(token, stored.key_id, stored.digest)
        remaining_s = None if stored.expires_at is None else (stored.expires_at - self._clock.now()).total_seconds()
        expired = remaining_s is not None and remaining_s <= 0
        suspended = organization.status is not OrganizationStatus.ACTIVE
        if not genuine or expired or suspended or stored.revoked_at is not None:
            raise InvalidTokenError
        principal = Principal(
            org_id=stored.org_id,
            token_id=stored.id,
            permissions=stored.permissions,
            user_id=stored.user_id,
            agent_id=stored.agent_id,
            remaining_s=remaining_s,
            rate_limit_rpm=organization.rate_limit_rpm,
        )
        return Fetched(principal, epoch)

    async def _organization_of(self, token: PersonalAccessToken) -> UUID:
        org_id = self._organizations.get(token.token_id)
        if org_id is None:
            found = await self._find(token)
            if found is None:
                self._peppers.compare_dummy(token)
                raise InvalidTokenError
            org_id = self._organizations[token.token_id] = found[0].org_id
            if len(self._organizations) > MAX_REMEMBERED_ORGANIZATIONS:
                self._organizations.popitem(last=False)
        return org_id

    async def _find(self, token: PersonalAccessToken) -> tuple[StoredToken, Organization] | None:
        try:
            return await self._store.find_token(token.token_id)
        except ServiceDegradedError as error:
            raise TokenSourceUnavailableError from error


class VerifyAgent:
    """An ``AgentVerifier`` that reads the store."""

    def __init__(self, store: IdentityStore, epochs: Epochs) -> None:
        self._store = store
        self._epochs = epochs

    async def verify(self, org_id: UUID, agent_id: UUID) -> Fetched[Agent]:
        """Return the agent and the epoch that was read before it; see ``AgentVerifier``."""
        epoch = await self._epochs.read_or_create(org_id)
        try:
            agent = await self._store.find_agent(org_id, agent_id)
        except ServiceDegradedError as error:
            raise AgentSourceUnavailableError from error
        if agent is None:
            raise AgentNotAuthorizedError
        return Fetched(agent, epoch)


@dataclass(frozen=True, slots=True)
class TokenGrant:
    """The properties of a new token. ``expires_at`` is UTC, None for never."""

    name: str
    permissions: Permission
    user_id: UUID | None = None
    agent_id: UUID | None = None
    expires_at: datetime | None = None


class ManageIdentity:
    """Creates, lists and changes organizations, users, agents and tokens, for operators."""

    def __init__(
        self,
        store: IdentityStore,
        peppers: TokenPeppers,
        epochs: Epochs,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._store = store
        self._peppers = peppers
        self._changes = Changes(epochs)
        self._clock = clock
        self._ids = ids

    async def create_organization(self, name: str, rate_limit_rpm: int | None = None) -> Organization:
        """Create an active organization. Raises ``AlreadyExistsError``, and ``ValueError`` for an invalid argument."""
        limit = check_rate_limit(rate_limit_rpm)
        organization = Organization(
            self._ids.uuid7(), check_name(name), OrganizationStatus.ACTIVE, limit, self._clock.now()
        )
        await self._store.add_organization(organization)
        return organization

    async def organizations(self) -> Sequence[Organization]:
        """Return all organizations, oldest first."""
        return await self._store.organizations()

    async def set_organization_status(self, org_id: UUID, status: OrganizationStatus) -> None:
        """Suspend or reactivate an organization. Raises ``NotFoundError``."""
        change = self._store.set_organization_status(org_id, status)
        if not await self._changes.make(org_id, change):
            raise NotFoundError("There is no such organization.")

    async def set_organization_rate_limit(self, org_id: UUID, rate_limit_rpm: int | None) -> None:
        """Change an organization's rate limit. None restores the deployment's default.

        Raises ``NotFoundError``, and ``ValueError`` for a limit out of range.
        """
        change = self._store.set_organization_rate_limit(org_id, check_rate_limit(rate_limit_rpm))
        if not await self._changes.make(org_id, change):
            raise NotFoundError("There is no such organization.")

    async def create_user(self, org_id: UUID, email: str) -> User:
        """Create a user. Raises ``AlreadyExistsError``."""
        user = User(self._ids.uuid7(), org_id, email, self._clock.now())
        await self._store.add_user(user)
        return user

    async def create_agent(self, org_id: UUID, name: str) -> NamedAgent:
        """Create an active agent. Raises ``AlreadyExistsError``."""
        agent = NamedAgent(self._ids.uuid7(), org_id, check_name(name), AgentStatus.ACTIVE, self._clock.now())

        async def add() -> bool:
            await self._store.add_agent(agent)
            return True

        await self._changes.make(org_id, add())  # because the absence of the agent may be cached
        return agent

    async def agents(self, org_id: UUID) -> Sequence[NamedAgent]:
        """Return the organization's agents, oldest first."""
        return await self._store.agents(org_id)

    async def set_agent_status(self, org_id: UUID, agent_id: UUID, status: AgentStatus) -> None:
        """Activate, pause, suspend or archive an agent. Raises ``NotFoundError``."""
        change = self._store.set_agent_status(org_id, agent_id, status)
        if not await self._changes.make(org_id, change):
            raise NotFoundError("The organization has no such agent.")

    async def create_token(self, org_id: UUID, grant: TokenGrant) -> PersonalAccessToken:
        """Create a token and return it. It cannot be read again.

        Raises ``NotFoundError`` if the agent or the user does not belong to the organization.
        """
        token = PersonalAccessToken.issue(self._ids.uuid7(), self._ids.secret())
        key_id, digest = self._peppers.hash(token)
        await self._store.add_token(
            StoredToken(
                id=token.token_id,
                org_id=org_id,
                name=check_name(grant.name),
                permissions=grant.permissions,
                key_id=key_id,
                digest=digest,
                user_id=grant.user_id,
                agent_id=grant.agent_id,
                created_at=self._clock.now(),
                expires_at=grant.expires_at,
                revoked_at=None,
            )
        )
        return token

    async def tokens(
        self, org_id: UUID, after: TokenPosition | None = None, limit: int | None = None
    ) -> Sequence[StoredToken]:
        """Return the organization's tokens, oldest first; see ``IdentityStore`` for ``after`` and ``limit``."""
        return await self._store.tokens(org_id, after, limit)

    async def revoke_token(self, org_id: UUID, token_id: UUID) -> None:
        """Revoke a token. Raises ``NotFoundError``. See ``freshness.kinds.BOUND_S`` for when workers refuse it."""
        change = self._store.revoke_token(org_id, token_id, self._clock.now())
        if not await self._changes.make(org_id, change):
            raise NotFoundError("The organization has no such token.")
