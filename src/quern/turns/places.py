"""Who may begin a turn now: a bounded number at once, one of a conversation at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager

from quern.engine.base import Priority
from quern.errors import ConversationBusy, QueueFull
from quern.turns.turn import Turn

BUSY = (
    "A turn of this conversation is still running, and turns never interleave. Wait until its answer is complete, "
    "then send this prompt again."
)


class Places:
    """Counts turns that are being admitted with those that are active. `retry_after` is asked when all are taken.

    Each priority has places of its own, so that what is urgent is not refused because of long chats.
    """

    def __init__(self, retry_after: Callable[[], int]) -> None:
        self._retry_after = retry_after
        self._starting: Counter[Priority] = Counter()
        self._admitting: set[str] = set()
        self._changing: Counter[str] = Counter()

    @contextmanager
    def place(self, priority: Priority, active: Collection[Turn], limit: int) -> Generator[None]:
        """Hold a place while a turn is being admitted. Raises QueueFull."""
        rivals = sum(turn.request.priority is priority for turn in active)
        if rivals + self._starting[priority] >= limit:
            seconds = self._retry_after()
            msg = f"All {limit} places are taken: every running and waiting turn counts. Try again in {seconds} s."
            raise QueueFull(msg, seconds)
        self._starting[priority] += 1
        try:
            yield
        finally:
            self._starting[priority] -= 1

    @contextmanager
    def alone_in(self, conversation_id: str | None, active: Collection[Turn]) -> Generator[None]:
        """Admit one turn of a conversation at a time, so that the history it was given stays the latest.

        Raises ConversationBusy.
        """
        if conversation_id is None:
            yield
            return
        self._check_idle(conversation_id, active)
        if self._changing[conversation_id]:
            raise ConversationBusy(BUSY)
        self._admitting.add(conversation_id)
        try:
            yield
        finally:
            self._admitting.discard(conversation_id)

    @contextmanager
    def changing(self, conversation_id: str, active: Collection[Turn]) -> Generator[None]:
        """Keep turns out of a conversation while something is put into it or taken out. Raises ConversationBusy."""
        self._check_idle(conversation_id, active)
        self._changing[conversation_id] += 1
        try:
            yield
        finally:
            self._changing[conversation_id] -= 1
            if not self._changing[conversation_id]:
                del self._changing[conversation_id]

    def _check_idle(self, conversation_id: str, active: Collection[Turn]) -> None:
        running = any(turn.conversation_id == conversation_id for turn in active)
        if running or conversation_id in self._admitting:
            raise ConversationBusy(BUSY)
