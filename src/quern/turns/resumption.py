"""After a stop or a crash: interrupted turns go on by themselves, and readers that come back find them at work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from quern.access.principal import Principal
from quern.config import ResumeInterrupted
from quern.errors import EngineUnavailable, LimitExceeded, QuernError, QueueFull
from quern.records import TurnRecord
from quern.turns.archive import TurnArchive
from quern.turns.request import Caller
from quern.turns.service import TurnService
from quern.types import DisconnectPolicy

log = structlog.get_logger(__name__)

FULL_WAIT_SECONDS = 2.0


class Resumption:
    """Goes on with what a stop of the server interrupted. `principal`: whom an owner's id stands for, None where its
    key is not valid any more.
    """

    def __init__(
        self,
        archive: TurnArchive,
        turns: TurnService,
        which: ResumeInterrupted,
        principal: Callable[[str], Principal | None],
    ) -> None:
        self._archive = archive
        self._turns = turns
        self._which = which
        self._principal = principal

    async def run(self) -> None:
        """Start them, the oldest first, as places become free. To be called once the model is loaded."""
        if self._which is ResumeInterrupted.OFF:
            return
        conversations_only = self._which is ResumeInterrupted.CONVERSATIONS
        try:
            for record in await self._archive.interrupted(conversations_only=conversations_only):
                await self._go_on(record)
        except QuernError as error:
            log.warning("turns_not_resumed", error=str(error))

    async def _go_on(self, record: TurnRecord) -> None:
        principal = self._principal(record.owner)
        if principal is None:
            log.info("turn_not_resumed", turn=record.id, reason="its key is not valid any more")
            return
        caller = Caller(principal, record.request_id, DisconnectPolicy.FINISH)
        while True:
            try:
                await self._turns.resume(record.id, caller)
            except (QueueFull, LimitExceeded):
                await asyncio.sleep(FULL_WAIT_SECONDS)
            except EngineUnavailable as error:
                if self._turns.stopping:
                    return
                await asyncio.sleep(error.retry_after)
            except QuernError as error:
                log.info("turn_not_resumed", turn=record.id, reason=str(error))
                return
            else:
                log.info("turn_resumed", turn=record.id)
                return
