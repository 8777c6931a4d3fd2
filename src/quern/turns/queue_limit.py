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


KEPT_PART = 4
"""One place in so many is kept, beside the others, for owners that have few."""

_Key = tuple[str, str]
"""An owner and a conversation's id: what another owner's conversation does is not for this one to know."""


class Places:
    """Counts turns that are being admitted with those that are active. `retry_after` is asked when all are taken.

    Each priority has places of its own, so that what is urgent is not refused because of long chats, and nobody because
    of what runs in the background. What became a background turn since nobody reads it any more counts with the others
    where there are more of those than places.

    Nobody can take all places from others: when they are taken, an owner that has less than its equal part of them may
    still have one of those that are kept for that, a quarter more.
    """

    def __init__(self, retry_after: Callable[[], int]) -> None:
        self._retry_after = retry_after
        self._starting: Counter[Priority] = Counter()
        self._starting_of: Counter[str] = Counter()
        self._admitting: set[_Key] = set()
        self._changing: Counter[_Key] = Counter()

    @contextmanager
    def place(self, priority: Priority, owner: str, active: Collection[Turn], limit: int) -> Generator[None]:
        """Hold a place while an owner's turn is being admitted. Raises QueueFull."""
        rivals = self._rivals(priority, active, limit)
        if rivals >= limit and not (rivals < limit + limit // KEPT_PART and self._has_little(owner, active, limit)):
            seconds = self._retry_after()
            msg = f"All {limit} places are taken: every running and waiting turn counts. Try again in {seconds} s."
            raise QueueFull(msg, seconds)
        self._starting[priority] += 1
        self._starting_of[owner] += 1
        try:
            yield
        finally:
            self._starting[priority] -= 1
            self._starting_of[owner] -= 1
            if not self._starting_of[owner]:
                del self._starting_of[owner]

    def _has_little(self, owner: str, active: Collection[Turn], limit: int) -> bool:
        """Whether an owner has less than its equal part of the places, while others have more."""
        owned = Counter(turn.owner for turn in active) + self._starting_of
        owners = {*owned, owner}
        return len(owners) > 1 and owned[owner] < limit // len(owners)

    def _rivals(self, priority: Priority, active: Collection[Turn], limit: int) -> int:
        counts = Counter(turn.priority for turn in active) + self._starting
        left_over = max(0, counts[Priority.BACKGROUND] - limit) if priority is Priority.NORMAL else 0
        return counts[priority] + left_over

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
