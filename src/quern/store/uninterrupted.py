"""Cancellation stops at the store's door: a step that was begun is carried out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import structlog

P = ParamSpec("P")
T = TypeVar("T")

_log = structlog.get_logger(__name__)


def uninterrupted(step: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Make `step` run to its end, in a task of its own, when its caller is cancelled.

    The caller's CancelledError comes once the step is over; an error of the step is then logged. Without this, a
    statement that is cancelled between its execution and its result leaves an SQLite connection that is closed but
    still holds the database's lock, until the garbage collector finds its cursor.
    """

    @wraps(step)
    async def to_its_end(*args: P.args, **kwargs: P.kwargs) -> T:
        task = asyncio.get_running_loop().create_task(step(*args, **kwargs))
        cancelled = False
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                cancelled = True
        if not cancelled:
            return task.result()
        error = task.exception()
        if error is not None:
            _log.warning("store_step_failed", step=step.__qualname__, error=str(error))
        raise asyncio.CancelledError

    return to_its_end
