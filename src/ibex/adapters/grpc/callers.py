"""Who may call what: services by their credential, administrators by their own token (spec 4)."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from ibex.adapters.grpc.metadata import bearer_in
from ibex.adapters.grpc.statuses import ServiceCredentialError
from ibex.domain.errors import InsufficientPermissionsError, InvalidTokenError, MissingTokenError
from ibex.domain.identity import PersonalAccessToken
from ibex.domain.permissions import allows

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.adapters.grpc.metadata import Metadata
    from ibex.domain.identity import Principal, TokenVerifier
    from ibex.domain.manage_identity import TokenGrant
    from ibex.domain.permissions import Permission


class Callers:
    """Lets callers in or raises. The repr shows no credential."""

    def __init__(self, tokens: TokenVerifier, service_credential: str | None) -> None:
        """Take what a service must present; None lets every service in. Raises ``ValueError`` for an empty one."""
        if service_credential is not None and not service_credential.strip():
            raise ValueError("a service credential is not empty")
        self._tokens = tokens
        self._service_credential = None if service_credential is None else service_credential.strip().encode()

    def admit_service(self, metadata: Metadata) -> None:
        """Return if the caller is a service that may ask. Raises ``ServiceCredentialError``."""
        if self._service_credential is None:
            return
        presented = (bearer_in(metadata) or "").encode()
        if not hmac.compare_digest(presented, self._service_credential):
            raise ServiceCredentialError

    async def admit_administrator(self, metadata: Metadata, org_id: UUID, *any_of: Permission) -> Principal:
        """Return the caller, who has one of the permissions in the organization.

        Raises ``MissingTokenError``, ``InvalidTokenError``, ``InsufficientPermissionsError`` and what a
        ``TokenVerifier`` raises.
        """
        presented = bearer_in(metadata)
        if presented is None:
            raise MissingTokenError
        token = PersonalAccessToken.parse(presented)
        if token is None:
            raise InvalidTokenError
        caller = await self._tokens.verify(token)
        if caller.org_id != org_id or not any(allows(caller.permissions, needed) for needed in any_of):
            raise InsufficientPermissionsError
        return caller


def check_grant(caller: Principal, grant: TokenGrant) -> None:
    """Raise ``InsufficientPermissionsError`` if a caller would grant more than it has.

    That is a permission that it lacks or, where it is bound to an agent, a token that is not bound to the same one.
    """
    beyond_its_agent = caller.agent_id is not None and grant.agent_id != caller.agent_id
    if beyond_its_agent or not allows(caller.permissions, grant.permissions):
        raise InsufficientPermissionsError("A token cannot grant more than it may do itself.")
