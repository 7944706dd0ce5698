"""The switch that starts the shutdown of the process."""

from __future__ import annotations


class Drain:
    """A switch that is turned once, when the process is told to stop. From then on it is not ready."""

    def __init__(self) -> None:
        self._begun = False

    @property
    def begun(self) -> bool:
        """Whether the shutdown has begun and the process wants no new work."""
        return self._begun

    def begin(self) -> None:
        """Begin the shutdown. Idempotent."""
        self._begun = True
