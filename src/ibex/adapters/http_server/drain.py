"""Whether the process has begun to end."""

from __future__ import annotations


class Drain:
    """A switch that is turned once, when the process is told to end; readiness follows it at once."""

    def __init__(self) -> None:
        self._begun = False

    @property
    def begun(self) -> bool:
        """Whether no new work is wanted any more."""
        return self._begun

    def begin(self) -> None:
        """Turn the switch. Idempotent."""
        self._begun = True
