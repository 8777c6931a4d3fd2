"""A turn's log: the events of one turn, written by its runner and read by any number of dialects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

from quern.events import TurnEnded, TurnEvent

MOST_AT_ONCE = 64
"""So many events are made into JSON in about a millisecond; in between the event loop serves others."""


class TurnLog:
    """Append-only; any number of readers, each at its own pace. Lives on one event loop.

    `events[i]` is the turn's event number `i + 1`; only `append` and `extend` change them. `settled`: how many came
    before the end did; those after it were told because of it, and would not be if the answer went on.
    """

    def __init__(self, events: Iterable[TurnEvent] = ()) -> None:
        self.events: list[TurnEvent] = list(events)
        self.settled: int | None = None
        self._waiting: list[asyncio.Future[bool]] = []

    @property
    def end(self) -> TurnEnded | None:
        """The terminal event, once there is one."""
        last = self.events[-1] if self.events else None
        return last if isinstance(last, TurnEnded) else None

    def append(self, event: TurnEvent) -> None:
        """Add an event and wake the readers. Raises RuntimeError after the terminal event."""
        self.extend((event,))

    def extend(self, events: Sequence[TurnEvent]) -> None:
        """Add events, if there are any, and wake the readers. Raises RuntimeError after the terminal event."""
        if events and self.end is not None:
            msg = f"a turn that has ended can't go on with {events[0]!r}"
            raise RuntimeError(msg)
        self.events += events
        if events and self._waiting:
            waiting, self._waiting = self._waiting, []
            for reader in waiting:
                _wake(reader, grown=True)

    def settle(self) -> None:
        """The end comes."""
        if self.settled is None:
            self.settled = len(self.events)

    async def read(
        self, after: int = 0, *, patience: Callable[[], float] | None = None
    ) -> AsyncGenerator[list[TurnEvent]]:
        """Everything after event number `after`, in batches of what is there, until the terminal event.

        `patience` says before each wait for how many seconds nothing may be added; after them an empty batch comes.
        """
        while True:
            batch = self.events[after : after + MOST_AT_ONCE]
            if batch:
                after += len(batch)
                yield batch
                if isinstance(batch[-1], TurnEnded):
                    return
                if len(batch) == MOST_AT_ONCE:
                    await asyncio.sleep(0)
            elif not await self._grown(patience() if patience is not None else None):
                yield batch

    async def ended(self) -> TurnEnded:
        """Wait for the terminal event."""
        while self.end is None:
            await self._grown(None)
        return self.end

    async def _grown(self, seconds: float | None) -> bool:
        """Wait for the next event; False after so many seconds without one."""
        loop = asyncio.get_running_loop()
        waiting = loop.create_future()
        self._waiting.append(waiting)
        timer = None if seconds is None else loop.call_later(seconds, _wake, waiting)
        try:
            return await waiting
        finally:
            if timer is not None:
                timer.cancel()
            if waiting in self._waiting:
                self._waiting.remove(waiting)


def _wake(waiting: asyncio.Future[bool], *, grown: bool = False) -> None:
    if not waiting.done():
        waiting.set_result(grown)
