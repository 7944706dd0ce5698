"""Epochs in Redis, for auth and for administration."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from ibex.adapters.redis.keys import EPOCH_TTL_S, READ_OR_CREATE, epoch_key
from ibex.domain.freshness.kinds import Epoch, unknown_epoch

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.adapters.redis.connection import Command
    from ibex.adapters.redis.link import RedisLink
    from ibex.domain.clock import Clock
    from ibex.domain.ids import IdSource

READ_TIMEOUT_S: Final = 0.01
"""The most that reading an epoch may delay auth's response to a proxy."""
ATTEMPTS: Final = 3


class RedisEpochs:
    """An ``Epochs`` in Redis."""

    def __init__(self, link: RedisLink, clock: Clock, ids: IdSource) -> None:
        self._link = link
        self._clock = clock
        self._ids = ids

    async def read_or_create(self, org_id: UUID) -> Epoch:
        """Return the epoch, or an unknown epoch if Redis does not answer in time; see ``Epochs``."""
        asked_ns = self._clock.monotonic_ns()
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                answer, _ = await self._link.execute(
                    org_id, org_id.int, lambda _: READ_OR_CREATE.call((epoch_key(org_id),), str(self._ids.uuid7()))
                )
        except TimeoutError:
            return unknown_epoch(asked_ns)
        if answer is None or not isinstance(answer.reply, bytes):
            return unknown_epoch(asked_ns)
        return Epoch(answer.reply.decode(errors="surrogateescape"), was_read=True, asked_ns=asked_ns)

    async def replace(self, org_id: UUID) -> bool:
        """Replace the epoch; see ``Epochs``. Makes up to ``ATTEMPTS`` attempts, each within the link's timeout.

        Each attempt uses a new value. Redis may have stored the value of an attempt that it did not answer. Storing
        that value again could restore an earlier epoch, after another process has replaced it.
        """
        for _ in range(ATTEMPTS):
            value = str(self._ids.uuid7())
            command = ("SET", epoch_key(org_id), value, "EX", EPOCH_TTL_S)
            answer, _place = await self._link.execute(org_id, ("replace", value), partial(_same, command))
            if answer is not None:
                return True
        return False


def _same(command: Command, _callers: int) -> Command:
    return command
