"""The 64-bit permission bitmap of a token."""

from __future__ import annotations

from enum import IntFlag


class Permission(IntFlag):
    """The permissions, one bit each. Bits 56 to 63 are reserved and refused."""

    MEMORY_READ = 1 << 0
    MEMORY_WRITE = 1 << 1
    MEMORY_DELETE = 1 << 2
    MEMORY_BULK_EXPORT = 1 << 3
    DIRECTIVE_READ = 1 << 8
    DIRECTIVE_WRITE = 1 << 9
    DIRECTIVE_PROMOTE = 1 << 10
    DIRECTIVE_REVOKE = 1 << 11
    SESSION_CREATE = 1 << 16
    SESSION_READ = 1 << 17
    SESSION_TERMINATE = 1 << 18
    TRACE_READ = 1 << 24
    TRACE_EXPORT = 1 << 25
    USER_MANAGE = 1 << 32
    BILLING_READ = 1 << 33
    BILLING_MANAGE = 1 << 34
    ORG_SETTINGS_WRITE = 1 << 35
    TOKEN_CREATE = 1 << 36
    TOKEN_REVOKE = 1 << 37
    MARKETPLACE_PUBLISH = 1 << 40
    MARKETPLACE_INSTALL = 1 << 41
    FEDERATION_SHARE = 1 << 48


AGENT_DEFAULT = (
    Permission.MEMORY_READ
    | Permission.MEMORY_WRITE
    | Permission.SESSION_CREATE
    | Permission.SESSION_READ
    | Permission.TRACE_READ
)
CHAT = Permission.MEMORY_READ | Permission.SESSION_CREATE | Permission.SESSION_READ
READ_ONLY = Permission.MEMORY_READ | Permission.DIRECTIVE_READ | Permission.SESSION_READ | Permission.TRACE_READ
ADMIN = (
    AGENT_DEFAULT
    | Permission.DIRECTIVE_READ
    | Permission.DIRECTIVE_WRITE
    | Permission.DIRECTIVE_PROMOTE
    | Permission.DIRECTIVE_REVOKE
    | Permission.SESSION_TERMINATE
    | Permission.TRACE_EXPORT
    | Permission.USER_MANAGE
    | Permission.BILLING_READ
    | Permission.BILLING_MANAGE
    | Permission.ORG_SETTINGS_WRITE
    | Permission.TOKEN_CREATE
    | Permission.TOKEN_REVOKE
)
NAMED_SETS = {"agent": AGENT_DEFAULT, "chat": CHAT, "read-only": READ_ONLY, "admin": ADMIN}

_ALL = (1 << 56) - 1


def permissions_of(bitmap: int) -> Permission:
    """Return the permissions of a bitmap. Unassigned bits below 56 are kept, without a meaning yet.

    Raises ``ValueError`` for a negative number and for reserved bits.
    """
    if bitmap < 0 or bitmap & ~_ALL:
        raise ValueError(f"Permissions must be from 0 to 2^56 - 1, not {bitmap:#x}: bits 56 to 63 are reserved.")
    return Permission(bitmap)


def allows(granted: int, needed: int) -> bool:
    """Return whether every needed bit is granted."""
    return int.__and__(granted, needed) == needed  # faster: the operator of ``IntFlag`` creates another object
