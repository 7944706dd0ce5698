"""Authorization of callers: services by the service credential, administrators by their own token (ADR 0024)."""

from __future__ import annotations

import hmac
from collections import OrderedDict
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from ibex.adapters.grpc.call_limits import ConcurrencyLimit
from ibex.adapters.grpc.metadata import bearer_in
from ibex.adapters.grpc.statuses import ServiceCredentialError, TooManyCallsError
from ibex.domain.errors import InsufficientPermissionsError, InvalidTokenError, MissingTokenError
from ibex.domain.identity.model import PersonalAccessToken
from ibex.domain.identity.permissions import allows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from ibex.adapters.grpc.metadata import Metadata
    from ibex.domain.clock import Clock
    from ibex.domain.identity.management import TokenGrant
    from ibex.domain.identity.model import Principal, TokenVerifier
    from ibex.domain.identity.permissions import Permission


MAX_UNCONFIRMED_CALLS: Final = 4
FAILURES_PER_S: Final = 20
FAILURE_BURST: Final = 100
CONFIRMED_FOR_S: Final = 3_600
_MAX_CONFIRMED: Final = 1_000
_NS: Final = 1_000_000_000


class GuessLimit:
    """Limits the verification of unconfirmed tokens, so that guessed tokens cannot starve administration.

    The limit does not apply to tokens that auth verified within the last hour. They are kept as SHA-256 digests.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._unconfirmed = ConcurrencyLimit(MAX_UNCONFIRMED_CALLS)
        self._confirmed: OrderedDict[bytes, int] = OrderedDict()
        self._budget = float(FAILURE_BURST)
        self._budget_at_ns = clock.monotonic_ns()

    async def verify(self, tokens: TokenVerifier, token: PersonalAccessToken) -> Principal:
        """Return the token's principal.

        Raises what the verifier raises, and ``TooManyCallsError`` for an unconfirmed token beyond the limit.
        """
        digest = sha256(token.reveal().encode()).digest()
        now_ns = self._clock.monotonic_ns()
        confirmed_ns = self._confirmed.get(digest)
        if confirmed_ns is not None and now_ns - confirmed_ns < CONFIRMED_FOR_S * _NS:
            return await self._verify(tokens, token, digest)
        self._refill(now_ns)
        if self._budget < 1:
            raise TooManyCallsError
        with self._unconfirmed:
            return await self._verify(tokens, token, digest)

    async def _verify(self, tokens: TokenVerifier, token: PersonalAccessToken, digest: bytes) -> Principal:
        try:
            principal = (await tokens.verify(token)).value
        except InvalidTokenError:
            self._confirmed.pop(digest, None)
            self._budget -= 1
            raise
        self._confirmed[digest] = self._clock.monotonic_ns()
        self._confirmed.move_to_end(digest)
        if len(self._confirmed) > _MAX_CONFIRMED:
            self._confirmed.popitem(last=False)
        return principal

    def _refill(self, now_ns: int) -> None:
        earned = (now_ns - self._budget_at_ns) / _NS * FAILURES_PER_S
        self._budget = min(float(FAILURE_BURST), self._budget + earned)
        self._budget_at_ns = now_ns


class Callers:
    """Checks the credentials of callers. The repr shows no credential."""

    def __init__(self, administrators: TokenVerifier, service_credential: str | None, clock: Clock) -> None:
        """Set the credential of services; None admits every service. Raises ``ValueError`` for an empty credential."""
        self._administrators = administrators
        self._guesses = GuessLimit(clock)
        self._service_credentials: tuple[bytes, ...] = ()
        if service_credential is not None:
            self.accept((service_credential,))

    def accept(self, credentials: Sequence[str]) -> None:
        """Accept each of these credentials of services from now on, and no other.

        Raises ``ValueError`` if the list is empty, because auth would then admit every service, or if a token is empty.
        """
        if not credentials or not all(credential.strip() for credential in credentials):
            raise ValueError("the service credential must not be empty")
        self._service_credentials = tuple(credential.strip().encode() for credential in credentials)

    @property
    def need_credential(self) -> bool:
        """Whether a service must present a credential."""
        return bool(self._service_credentials)

    def admit_service(self, metadata: Metadata) -> None:
        """Return if the caller presents a service credential. Raises ``ServiceCredentialError`` if it does not."""
        if not self._service_credentials:
            return
        presented = (bearer_in(metadata) or "").encode()
        matches = [hmac.compare_digest(presented, credential) for credential in self._service_credentials]
        if not any(matches):
            raise ServiceCredentialError

    async def admit_administrator(self, metadata: Metadata, org_id: UUID, *any_of: Permission) -> Principal:
        """Return the caller if it has one of the permissions in the organization.

        Raises ``InsufficientPermissionsError`` if it has none of them, ``MissingTokenError``, ``InvalidTokenError``,
        ``TooManyCallsError``, and what a ``TokenVerifier`` raises.
        """
        presented = bearer_in(metadata)
        if presented is None:
            raise MissingTokenError
        token = PersonalAccessToken.parse(presented)
        if token is None:
            raise InvalidTokenError
        caller = await self._guesses.verify(self._administrators, token)
        if caller.org_id != org_id or not any(allows(caller.permissions, needed) for needed in any_of):
            raise InsufficientPermissionsError
        return caller


def check_grant(caller: Principal, grant: TokenGrant) -> None:
    """Raise ``InsufficientPermissionsError`` if a caller would grant more than it has.

    A caller may not grant a permission that it lacks. A caller whose token is bound to an agent may only create tokens
    that are bound to the same agent.
    """
    beyond_its_agent = caller.agent_id is not None and grant.agent_id != caller.agent_id
    if beyond_its_agent or not allows(caller.permissions, grant.permissions):
        raise InsufficientPermissionsError("A token can only grant permissions, and the agent, that it has itself.")
