"""Who compiles a grammar next: a few at a time, in turns by owner, and what may take long never in all places."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

PLACES = 2
LARGE_PLACES = 1


@dataclass(slots=True, eq=False)
class _Waiter:
    large: bool
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class CompileLine:
    """Owners take turns, whoever has waited longest of those who wait first. Large grammars take one place at most, so
    that small ones never wait for several of them. For one event loop.
    """

    def __init__(self) -> None:
        self._small = 0
        self._large = 0
        self._waiting: dict[str, deque[_Waiter]] = {}

    async def acquire(self, owner: str, *, large: bool) -> None:
        """Wait for a place. Cancelling leaves the line."""
        waiter = _Waiter(large)
        self._waiting.setdefault(owner, deque()).append(waiter)
        self._grant()
        try:
            await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.cancelled():
                self._remove(owner, waiter)
            else:
                self.release(large=large)
            raise

    def release(self, *, large: bool) -> None:
        """Give a place back."""
        self._count(-1, large=large)
        self._grant()

    def _grant(self) -> None:
        while self._small + self._large < PLACES:
            found = next(
                (
                    (owner, waiter)
                    for owner, waiters in self._waiting.items()
                    for waiter in waiters
                    if not waiter.large or self._large < LARGE_PLACES
                ),
                None,
            )
            if found is None:
                return
            owner, waiter = found
            self._remove(owner, waiter)
            if owner in self._waiting:
                self._waiting[owner] = self._waiting.pop(owner)
            self._count(1, large=waiter.large)
            waiter.granted.set_result(None)

    def _remove(self, owner: str, waiter: _Waiter) -> None:
        self._waiting[owner].remove(waiter)
        if not self._waiting[owner]:
            del self._waiting[owner]

    def _count(self, change: int, *, large: bool) -> None:
        if large:
            self._large += change
        else:
            self._small += change
