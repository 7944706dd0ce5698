"""The keys that IBEX uses in Redis, and the Lua scripts that read and write them.

The keys of one script share a hash tag, so that a Redis Cluster stores them in one slot. All keys expire.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from uuid import UUID

EPOCH_TTL_S: Final = 86_400
"""An expired epoch validates no cache entry. Auth creates a new one at the next validation."""
WINDOW_TTL_S: Final = 120


def window_key(org_id: UUID, minute: int) -> str:
    """Return the key of an organization's request count in a minute; ``minute`` counts from 1970."""
    return f"ibex:{{{org_id}}}:rpm:{minute}"


def epoch_key(org_id: UUID) -> str:
    """Return the key of an organization's epoch."""
    return f"ibex:{{{org_id}}}:epoch"


def directive_key(org_id: UUID, agent_id: UUID, name: str) -> str:
    """Return the key of an agent's directive. ``name`` is derived from the epoch and the sealing key."""
    return f"ibex:{{{org_id}}}:directive:{agent_id}:{name}"


def response_key(org_id: UUID, response_id: str) -> str:
    """Return the key of a response that an agent of the organization received."""
    return f"ibex:{{{org_id}}}:response:{response_id}"


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and its SHA-1, which names it in Redis' script cache."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        """Compute the SHA-1."""
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())

    def call(self, keys: tuple[str, ...], *arguments: str | int | bytes) -> tuple[str | int | bytes, ...]:
        """Return the command that runs the script."""
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)


COUNT: Final = Script(
    f"""
    -- KEYS: window, epoch. ARGV: number of requests. Returns the new count, and the epoch or false if it is not set.
    local count = 0
    if tonumber(ARGV[1]) > 0 then
      count = redis.call('INCRBY', KEYS[1], ARGV[1])
      redis.call('EXPIRE', KEYS[1], {WINDOW_TTL_S})
    end
    return {{count, redis.call('GET', KEYS[2])}}
    """
)
READ_OR_CREATE: Final = Script(
    f"""
    -- KEYS: epoch. ARGV: a value that no epoch ever had. Returns the existing epoch, or ARGV[1] if there was none.
    redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', {EPOCH_TTL_S})
    return redis.call('GET', KEYS[1])
    """
)

TEXTS: Final = {script.sha: script.text for script in (COUNT, READ_OR_CREATE)}
"""The scripts by SHA-1, for a server whose script cache lacks one of them."""
_PROBE: Final = "ibex:{doctor}:probe"
PROBES: Final[tuple[tuple[str | int, ...], ...]] = (
    ("EVALSHA", COUNT.sha, 0),
    ("EVAL", "return 1", 0),
    ("SET", _PROBE, 1, "PX", 1_000),
    ("GET", _PROBE),
    ("INCRBY", _PROBE, 1),
    ("EXPIRE", _PROBE, 1),
)
"""Every command that serving requests needs, on a key that expires within a second. Checks a user's permissions."""
