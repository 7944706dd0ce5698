"""What IBEX keeps in Redis, under which keys, and the scripts that change it.

Keys of one script share a hash tag, so that they lie in one slot of a Redis Cluster. All keys but the filter expire.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from uuid import UUID

LEASE_KEY: Final = "ibex:{freshness}:lease"
GENERATIONS_TTL_S: Final = 86_400
"""A generation that has expired is made anew, and what was remembered under it is looked up once more."""
WINDOW_TTL_S: Final = 120
MARK_TTL_S: Final = 120


def window_key(org_id: UUID, minute: int) -> str:
    """Return the key of an organization's count in a minute (spec 6)."""
    return f"ibex:{{{org_id}}}:rpm:{minute}"


def generations_key(org_id: UUID) -> str:
    """Return the key of an organization's generations: a hash, by kind."""
    return f"ibex:{{{org_id}}}:generations"


def filter_key(instance: str) -> str:
    """Return the key of the filter of live tokens that holds for one instance of Redis."""
    return f"ibex:{{freshness}}:tokens:{instance}"


def mark_key(mark: str) -> str:
    """Return the key of the mark of a filter that is being made."""
    return f"ibex:{{freshness}}:mark:{mark}"


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
    -- KEYS: window, generations. ARGV: how many requests, a value that was never there. Returns count and generations.
    local count = 0
    if tonumber(ARGV[1]) > 0 then
      count = redis.call('INCRBY', KEYS[1], ARGV[1])
      redis.call('EXPIRE', KEYS[1], {WINDOW_TTL_S})
    end
    local kinds = {{'tokens', 'agents', 'directives'}}
    local generations = redis.call('HMGET', KEYS[2], unpack(kinds))
    for i, kind in ipairs(kinds) do
      if not generations[i] then
        generations[i] = ARGV[2]
        redis.call('HSET', KEYS[2], kind, ARGV[2])
        redis.call('EXPIRE', KEYS[2], {GENERATIONS_TTL_S})
      end
    end
    return {{count, generations[1], generations[2], generations[3]}}
    """
)
EXCLUDES: Final = Script(
    """
    -- KEYS: filter, lease. ARGV: instance, positions. Returns 1 if the filter holds for the instance and lacks one.
    if redis.call('GET', KEYS[2]) ~= ARGV[1] or redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
    for i = 2, #ARGV do
      if redis.call('GETBIT', KEYS[1], ARGV[i]) == 0 then return 1 end
    end
    return 0
    """
)
ADD_TOKENS: Final = Script(
    """
    -- KEYS: filter. ARGV: positions. Returns 0 if there is no filter.
    if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
    for i = 1, #ARGV do redis.call('SETBIT', KEYS[1], ARGV[i], 1) end
    return 1
    """
)
RENEW: Final = Script(
    """
    -- KEYS: filter, lease. ARGV: instance, milliseconds. Returns 0 if there is no filter to vouch for.
    if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
    redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
    return 1
    """
)
FINISH_FILTER: Final = Script(
    """
    -- KEYS: filter, mark. ARGV: content. Returns 0 if there is a filter, or Redis has lost the mark.
    if redis.call('EXISTS', KEYS[1]) == 1 or redis.call('DEL', KEYS[2]) == 0 then return 0 end
    redis.call('SET', KEYS[1], ARGV[1])
    return 1
    """
)
