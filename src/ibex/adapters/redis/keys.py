"""What IBEX keeps in Redis, under which keys, and the scripts that change it.

Keys of one script share a hash tag, so that they lie in one slot of a Redis Cluster. All keys expire.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from uuid import UUID

EPOCH_TTL_S: Final = 86_400
"""An epoch that has expired is absent, which proves nothing; auth creates another at the next validation."""
WINDOW_TTL_S: Final = 120


def window_key(org_id: UUID, minute: int) -> str:
    """Return the key of an organization's count in a minute."""
    return f"ibex:{{{org_id}}}:rpm:{minute}"


def epoch_key(org_id: UUID) -> str:
    """Return the key of an organization's epoch."""
    return f"ibex:{{{org_id}}}:epoch"


def directive_key(org_id: UUID, agent_id: UUID, name: str) -> str:
    """Return the key of what was looked up for an agent; ``name`` stands for the epoch and for who can verify it."""
    return f"ibex:{{{org_id}}}:directive:{agent_id}:{name}"


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and its name in Redis' cache."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        """Compute the name."""
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())

    def call(self, keys: tuple[str, ...], *arguments: str | int | bytes) -> tuple[str | int | bytes, ...]:
        """Return the command that runs it."""
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
    -- KEYS: epoch. ARGV: a value that no epoch ever had. Returns the epoch, which is ARGV where there was none.
    redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', {EPOCH_TTL_S})
    return redis.call('GET', KEYS[1])
    """
)

TEXTS: Final = {script.sha: script.text for script in (COUNT, READ_OR_CREATE)}
"""What a server is sent that lacks one of the scripts."""
_PROBE: Final = "ibex:{doctor}:probe"
PROBES: Final[tuple[tuple[str | int, ...], ...]] = (
    ("EVALSHA", COUNT.sha, 0),
    ("EVAL", "return 1", 0),
    ("SET", _PROBE, 1, "PX", 1_000),
    ("GET", _PROBE),
    ("INCRBY", _PROBE, 1),
    ("EXPIRE", _PROBE, 1),
)
"""Every command that serving requests needs, on keys that expire within a second. Checks a Redis user's permissions."""
