"""Noticing that a client has gone.

uvicorn speaks ASGI 2.3: a handler learns of a closed connection only by listening for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.types import Message, Receive

Result = TypeVar("Result")


class ClientDisconnected(Exception):
    """The client closed its connection before there was an answer. Nobody receives what it becomes."""


async def result_unless_disconnected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """What the work comes to. Raises ClientDisconnected where the client went before, and the work was cancelled."""
    task = asyncio.ensure_future(work)
    if not await unless_disconnected(receive, task):
        raise ClientDisconnected
    return task.result()


async def unless_disconnected(receive: Receive, work: Awaitable[object]) -> bool:
    """Do the work until the client disconnects; False where it did, and the work was cancelled."""
    loop = asyncio.get_running_loop()
    working = asyncio.ensure_future(work)
    listening = loop.create_task(_disconnected(receive))
    try:
        await asyncio.wait([working, listening], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return False
        working.result()
        return True
    finally:
        for task in (working, listening):
            task.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


async def _disconnected(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
