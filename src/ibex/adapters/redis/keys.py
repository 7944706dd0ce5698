"""What IBEX keeps in Redis, under which keys, and the scripts that change it.

Keys of one script share a hash tag, so that they lie in one slot of a Redis Cluster. All keys but the filter's two
expire. There is one filter, and beside it stands for which instance and by what mark it was made; the lease's value is
the same. So what another instance left is as good as nothing, and one that is back in its place under its old name, and
may lack what it was told last, has to have another filter made and is vouched for by another lease.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from uuid import UUID

FRESHNESS_TAG: Final = "freshness"
LEASE_KEY: Final = "ibex:{freshness}:lease"
FILTER_KEY: Final = "ibex:{freshness}:tokens"
MADE_KEY: Final = "ibex:{freshness}:tokens-made"
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


def directive_key(org_id: UUID, agent_id: UUID, name: str) -> str:
    """Return the key of what was looked up for an agent; ``name`` stands for the epoch and for who can verify it."""
    return f"ibex:{{{org_id}}}:directive:{agent_id}:{name}"


def mark_key(mark: str) -> str:
    """Return the key of the mark of a filter that is being made."""
    return f"ibex:{{freshness}}:mark:{mark}"


def ticket_key(ticket: str) -> str:
    """Return the key of a ticket: it holds what ``MADE_KEY`` held when it was given out."""
    return f"ibex:{{freshness}}:ticket:{ticket}"


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
_HAS_FILTER: Final = """
    local function has_filter(made, instance)
      return made and string.sub(made, 1, #instance + 1) == instance .. ' ' and redis.call('EXISTS', KEYS[2]) == 1
    end
    """
EXCLUDES: Final = Script(
    f"""{_HAS_FILTER}
    -- KEYS: made, filter, lease. ARGV: instance, positions. Returns 1 if the filter is vouched for and lacks one.
    local made = redis.call('GET', KEYS[1])
    if redis.call('GET', KEYS[3]) ~= made or not has_filter(made, ARGV[1]) then return 0 end
    for i = 2, #ARGV do
      if redis.call('GETBIT', KEYS[2], ARGV[i]) == 0 then return 1 end
    end
    return 0
    """
)
ADD_TOKENS: Final = Script(
    f"""{_HAS_FILTER}
    -- KEYS: made, filter. ARGV: instance, positions. Returns 0 if the instance has no filter.
    if not has_filter(redis.call('GET', KEYS[1]), ARGV[1]) then return 0 end
    for i = 2, #ARGV do redis.call('SETBIT', KEYS[2], ARGV[i], 1) end
    return 1
    """
)
BEGIN_TURN: Final = Script(
    f"""{_HAS_FILTER}
    -- KEYS: made, filter, ticket. ARGV: instance, milliseconds. Returns 0 if the instance has no filter.
    local made = redis.call('GET', KEYS[1])
    if not has_filter(made, ARGV[1]) then return 0 end
    redis.call('SET', KEYS[3], made, 'PX', ARGV[2])
    return 1
    """
)
RENEW: Final = Script(
    f"""{_HAS_FILTER}
    -- KEYS: made, filter, ticket, lease. ARGV: instance. Returns 0 if the ticket has run out or is for another filter.
    local made, left = redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[3])
    if left <= 0 or redis.call('GET', KEYS[3]) ~= made or not has_filter(made, ARGV[1]) then return 0 end
    redis.call('SET', KEYS[4], made, 'PX', left)
    redis.call('DEL', KEYS[3])
    return 1
    """
)
FINISH_FILTER: Final = Script(
    f"""{_HAS_FILTER}
    -- KEYS: made, filter, mark. ARGV: instance, what it is made by, content. Returns 0 if the instance has a filter, or
    -- Redis has lost the mark.
    if has_filter(redis.call('GET', KEYS[1]), ARGV[1]) or redis.call('DEL', KEYS[3]) == 0 then return 0 end
    redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2])
    redis.call('SET', KEYS[2], ARGV[3])
    return 1
    """
)

TEXTS: Final = {script.sha: script.text for script in (COUNT, EXCLUDES)}
"""What a server is sent that lacks one of the requests' scripts."""
_PROBE: Final = "ibex:{doctor}:probe"
PROBES: Final[tuple[tuple[str | int, ...], ...]] = (
    ("EVALSHA", COUNT.sha, 0),
    ("EVAL", "return 1", 0),
    ("SET", _PROBE, 1, "PX", 1_000),
    ("GET", _PROBE),
    ("INCRBY", _PROBE, 1),
    ("EXPIRE", _PROBE, 1),
    ("HSET", f"{_PROBE}:hash", "tokens", ""),
    ("HMGET", f"{_PROBE}:hash", "tokens"),
    ("EXPIRE", f"{_PROBE}:hash", 1),
    ("EXISTS", _PROBE),
    ("GETBIT", _PROBE, 0),
)
"""All commands that requests need, on keys that expire within a second: a user who may run these can serve."""
