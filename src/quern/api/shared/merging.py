"""The events of several turns, as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from quern.events import TurnEvent
from quern.turns.log import TurnLog

Batch = tuple[int, Sequence[TurnEvent]]
"""Events with the index of their log."""


async def merged(logs: Sequence[TurnLog], *, silence: float) -> AsyncGenerator[Batch]:
    """Everything in these logs as it comes, until all of them have ended; an empty batch after each `silence` seconds
    in which nothing came.
    """
    if len(logs) > 1:
        async with aclosing(_merged(logs, silence)) as batches:
            async for batch in batches:
                yield batch
        return
    async with aclosing(logs[0].read(silence=silence)) as events:
        async for some in events:
            yield 0, some


async def _merged(logs: Sequence[TurnLog], silence: float) -> AsyncGenerator[Batch]:
    inbox: asyncio.Queue[Batch | None] = asyncio.Queue()

    async def forward(index: int, log: TurnLog) -> None:
        async for batch in log.read():
            inbox.put_nowait((index, batch))
        inbox.put_nowait(None)

    loop = asyncio.get_running_loop()
    readers = [loop.create_task(forward(index, log)) for index, log in enumerate(logs)]
    try:
        left = len(readers)
        while left:
            try:
                async with asyncio.timeout(silence):
                    batch = await inbox.get()
            except TimeoutError:
                yield 0, ()
                continue
            if batch is None:
                left -= 1
            else:
                yield batch
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
