"""The events of several turns, as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from quern.turns.events import TurnEvent, TurnLog


async def merged(logs: Sequence[TurnLog]) -> AsyncGenerator[tuple[int, TurnEvent]]:
    """Each event with the index of its log, until all logs have ended."""
    inbox: asyncio.Queue[tuple[int, TurnEvent] | None] = asyncio.Queue()

    async def forward(index: int, log: TurnLog) -> None:
        async for batch in log.read():
            for item in batch:
                inbox.put_nowait((index, item.event))
        inbox.put_nowait(None)

    loop = asyncio.get_running_loop()
    readers = [loop.create_task(forward(index, log)) for index, log in enumerate(logs)]
    try:
        left = len(readers)
        while left:
            item = await inbox.get()
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
