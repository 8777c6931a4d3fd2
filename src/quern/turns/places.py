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


_Key = tuple[str, str]
"""An owner and a conversation's id: what another owner's conversation does is not for this one to know."""


class Places:
    """Counts turns that are being admitted with those that are active. `retry_after` is asked when all are taken.

    Each priority has places of its own, so that what is urgent is not refused because of long chats.
    """

    def __init__(self, retry_after: Callable[[], int]) -> None:
        self._retry_after = retry_after
        self._starting: Counter[Priority] = Counter()
        self._admitting: set[_Key] = set()
        self._changing: Counter[_Key] = Counter()

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
    def alone_in(self, conversation_id: str | None, owner: str, active: Collection[Turn]) -> Generator[None]:
        """Admit one turn of an owner's conversation at a time, so that the history it was given stays the latest.

        Raises ConversationBusy.
        """
        if conversation_id is None:
            yield
            return
        key = owner, conversation_id
        self._check_idle(key, active)
        if self._changing[key]:
            raise ConversationBusy(BUSY)
        self._admitting.add(key)
        try:
            yield
        finally:
            self._admitting.discard(key)

    @contextmanager
    def changing(self, conversation_id: str, owner: str, active: Collection[Turn]) -> Generator[None]:
        """Keep turns out of a conversation while something is put into it or taken out. Raises ConversationBusy."""
        key = owner, conversation_id
        self._check_idle(key, active)
        self._changing[key] += 1
        try:
            yield
        finally:
            self._changing[key] -= 1
            if not self._changing[key]:
                del self._changing[key]

    def _check_idle(self, key: _Key, active: Collection[Turn]) -> None:
        if key in self._admitting or any((turn.owner, turn.conversation_id) == key for turn in active):
            raise ConversationBusy(BUSY)
