"""The database schema as SQLAlchemy tables. Alembic migrates a database to it; a test compares the two.

Ownership is structural: a row that belongs to an agent or a session refers to it together with the organization,
because foreign-key and uniqueness checks are not subject to row-level security.

No index that a foreign-key check could use begins with the organization. While a table is small, all indexes look
equally good to PostgreSQL, and a connection keeps its plan, which would later read every row of the organization for
each check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    false,
    func,
    text,
    true,
)
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.types import UserDefinedType

from ibex.domain.directives.model import MAX_TEXT_BYTES, InjectionMode
from ibex.domain.identity.management import OrganizationStatus
from ibex.domain.identity.model import AgentStatus
from ibex.domain.record.sessions import SessionStatus

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_PERMISSIONS: Final = (1 << 56) - 1
DIGEST_BYTES: Final = 32
CHANGE_KINDS: Final = ("tokens", "agents", "directives")
METADATA: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


class Xid8(UserDefinedType[str]):
    """PostgreSQL's type for 64-bit transaction ids, which SQLAlchemy lacks."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Return the type's name in SQL."""
        return "xid8"


ischema_names["xid8"] = Xid8


def _one_of(column: str, values: Iterable[str]) -> CheckConstraint:
    allowed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({allowed})", name=column)


def _sha256(column: str) -> CheckConstraint:
    return CheckConstraint(f"{column} ~ '^[0-9a-f]{{64}}$'", name=column)


def _at_least(lowest: int, *columns: str) -> list[CheckConstraint]:
    return [CheckConstraint(f"{column} >= {lowest}", name=column) for column in columns]


def _time(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _uuid(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, Uuid(), nullable=nullable)


def _text(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, Text(), nullable=nullable)


def _agent_of_organization() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["agent_id", "org_id"], ["agents.id", "agents.org_id"])


organizations = Table(
    "organizations",
    METADATA,
    _uuid("id"),
    _text("name"),
    _text("status"),
    Column("rate_limit_rpm", Integer(), nullable=True),
    _time("created_at"),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("name"),
    _one_of("status", OrganizationStatus),
    *_at_least(0, "rate_limit_rpm"),
)

users = Table(
    "users",
    METADATA,
    _uuid("id"),
    _uuid("org_id"),
    _text("email"),
    _time("created_at"),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("id", "org_id"),
    UniqueConstraint("email", "org_id"),
    ForeignKeyConstraint(["org_id"], ["organizations.id"]),
)

agents = Table(
    "agents",
    METADATA,
    _uuid("id"),
    _uuid("org_id"),
    _text("name"),
    _text("status"),
    _time("created_at"),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("id", "org_id"),
    UniqueConstraint("name", "org_id"),
    ForeignKeyConstraint(["org_id"], ["organizations.id"]),
    _one_of("status", AgentStatus),
)

tokens = Table(
    "tokens",
    METADATA,
    _uuid("id"),
    _uuid("org_id"),
    _text("name"),
    Column("permissions", BigInteger(), nullable=False),
    _text("key_id"),
    Column("digest", LargeBinary(), nullable=False),
    _uuid("user_id", nullable=True),
    _uuid("agent_id", nullable=True),
    _time("created_at"),
    _time("expires_at", nullable=True),
    _time("revoked_at", nullable=True),
    PrimaryKeyConstraint("id"),
    ForeignKeyConstraint(["org_id"], ["organizations.id"]),
    ForeignKeyConstraint(["user_id", "org_id"], ["users.id", "users.org_id"]),
    _agent_of_organization(),
    CheckConstraint(f"permissions BETWEEN 0 AND {MAX_PERMISSIONS}", name="permissions"),
    CheckConstraint(f"octet_length(digest) = {DIGEST_BYTES}", name="digest"),
    Index(None, "org_id", "created_at"),
)

directives = Table(
    "directives",
    METADATA,
    _uuid("agent_id"),
    _uuid("org_id"),
    _text("injection_mode"),
    Column("is_active", Boolean(), nullable=False),
    _uuid("active_version_id"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    _uuid("previous_version_id", nullable=True),
    PrimaryKeyConstraint("agent_id", "org_id"),
    _agent_of_organization(),
    # A directive and its first version refer to each other, so this constraint is checked at commit.
    ForeignKeyConstraint(
        ["active_version_id", "agent_id", "org_id"],
        ["directive_versions.id", "directive_versions.agent_id", "directive_versions.org_id"],
        deferrable=True,
        initially="DEFERRED",
        use_alter=True,
    ),
    ForeignKeyConstraint(
        ["previous_version_id", "agent_id", "org_id"],
        ["directive_versions.id", "directive_versions.agent_id", "directive_versions.org_id"],
        use_alter=True,
    ),
    _one_of("injection_mode", InjectionMode),
)

directive_versions = Table(
    "directive_versions",
    METADATA,
    _uuid("id"),
    _uuid("agent_id"),
    _uuid("org_id"),
    Column("number", Integer(), nullable=False),
    _text("text"),
    _text("sha256"),
    _text("author"),
    _time("created_at"),
    _text("injection_mode", nullable=True),  # NULL if an IBEX without this column added the version
    PrimaryKeyConstraint("id"),
    UniqueConstraint("id", "agent_id", "org_id"),
    UniqueConstraint("agent_id", "org_id", "number"),
    _one_of("injection_mode", InjectionMode),
    ForeignKeyConstraint(["agent_id", "org_id"], ["directives.agent_id", "directives.org_id"]),
    CheckConstraint(f"octet_length(text) BETWEEN 1 AND {MAX_TEXT_BYTES}", name="text"),
    _sha256("sha256"),
    *_at_least(1, "number"),
)

sessions = Table(
    "sessions",
    METADATA,
    _uuid("id"),
    _uuid("org_id"),
    _uuid("agent_id"),
    _text("external_id"),
    _text("status"),
    _text("model"),
    _text("provider"),
    _uuid("directive_version_id", nullable=True),
    Column("turn_count", Integer(), nullable=False),
    Column("total_input_tokens", BigInteger(), nullable=False),
    Column("total_output_tokens", BigInteger(), nullable=False),
    Column("total_latency_ms", BigInteger(), nullable=False),
    Column("last_extracted_turn", Integer(), nullable=True),
    _time("created_at"),
    _time("updated_at"),
    _time("completed_at", nullable=True),
    _time("deleted_at", nullable=True),
    PrimaryKeyConstraint("id", "org_id"),
    UniqueConstraint("agent_id", "external_id", "org_id"),
    _agent_of_organization(),
    ForeignKeyConstraint(
        ["directive_version_id", "agent_id", "org_id"],
        ["directive_versions.id", "directive_versions.agent_id", "directive_versions.org_id"],
    ),
    _one_of("status", SessionStatus),
    *_at_least(1, "turn_count"),
    *_at_least(0, "total_input_tokens", "total_output_tokens", "total_latency_ms", "last_extracted_turn"),
    # For lists and for the sweeper. No index contains a column that most turns change, so that PostgreSQL can update
    # the row in place (HOT). The status changes once or twice in the lifetime of a session.
    Index("ix_sessions_org_id", "org_id", postgresql_where=text("deleted_at IS NULL")),
    Index("ix_sessions_created_at", "created_at", postgresql_where=text("status = 'active'")),
)

checkpoints = Table(
    "checkpoints",
    METADATA,
    _uuid("id"),
    _uuid("session_id"),
    _uuid("org_id"),
    _uuid("agent_id"),
    Column("turn_index", Integer(), nullable=False),
    _uuid("request_id"),
    _text("messages_hash"),
    _text("completion_hash", nullable=True),
    Column("input_tokens", Integer(), nullable=True),
    Column("output_tokens", Integer(), nullable=True),
    _text("model"),
    _text("provider"),
    Column("latency_ms", BigInteger(), nullable=False),
    _text("provider_request_id", nullable=True),
    Column("is_streaming", Boolean(), nullable=False),
    Column("is_complete", Boolean(), nullable=False),
    _time("created_at"),
    # No foreign keys, because records outlive their token. NULL in rows that are older than the columns.
    _uuid("token_id", nullable=True),
    _uuid("user_id", nullable=True),
    Column("operation", Text(), nullable=False, server_default="chat.completions"),
    _text("response_id", nullable=True),
    _uuid("directive_version_id", nullable=True),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("session_id", "turn_index"),
    # Unique within the organization: clients can choose request ids, and a conflict must not reveal another tenant's.
    UniqueConstraint("request_id", "org_id"),
    ForeignKeyConstraint(["session_id", "org_id"], ["sessions.id", "sessions.org_id"]),
    _agent_of_organization(),
    _sha256("messages_hash"),
    _sha256("completion_hash"),
    *_at_least(0, "turn_index", "input_tokens", "output_tokens", "latency_ms"),
    Index(None, "org_id", "response_id", postgresql_where=text("response_id IS NOT NULL")),
)

changes = Table(
    "changes",
    METADATA,
    Column("id", BigInteger(), Identity(always=True), nullable=False),
    Column("xid", Xid8(), nullable=False, server_default=func.pg_current_xact_id()),
    _uuid("org_id"),
    _text("kind"),
    _uuid("live_token", nullable=True),
    PrimaryKeyConstraint("id"),
    ForeignKeyConstraint(["org_id"], ["organizations.id"]),
    _one_of("kind", CHANGE_KINDS),
    Index(None, "xid"),
)

change_snapshots = Table(
    "change_snapshots",
    METADATA,
    Column("id", BigInteger(), Identity(always=True), nullable=False),
    Column("taken_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("snapshot", Text(), nullable=False, server_default=text("pg_current_snapshot()::text")),
    Column("is_pruned", Boolean(), nullable=False, server_default=false()),
    PrimaryKeyConstraint("id"),
)

change_incarnation = Table(
    "change_incarnation",
    METADATA,
    Column("only_row", Boolean(), nullable=False, server_default=true()),
    Column("value", Uuid(), nullable=False, server_default=func.gen_random_uuid()),
    PrimaryKeyConstraint("only_row"),
    CheckConstraint("only_row", name="only_row"),
    prefixes=["UNLOGGED"],
)
