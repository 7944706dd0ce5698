"""What a round trip asks besides its questions: the lease, and which instance answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ibex.adapters.redis.keys import LEASE_KEY

if TYPE_CHECKING:
    from ibex.adapters.redis.connection import Command

IDENTIFY: Final[Command] = ("INFO", "server")


@dataclass(frozen=True, slots=True)
class LeasePreamble:
    """The commands of the lease, and how their replies are read."""

    on_connect: Command = IDENTIFY
    each_trip: Command = ("GET", LEASE_KEY)

    def valid_lease(self, instance: str, reply: Any) -> str | None:
        """Return the lease if it names the very instance that answered."""
        if not instance or not isinstance(reply, bytes) or not reply.startswith(b"%s " % instance.encode()):
            return None
        return reply.decode("utf-8", "replace")


def instance_of(reply: Any) -> str:
    """Return the instance's id, or nothing where the server does not tell it."""
    if isinstance(reply, bytes):
        for line in reply.decode("utf-8", "replace").splitlines():
            if line.startswith("run_id:"):
                return line.removeprefix("run_id:").strip()
    return ""
