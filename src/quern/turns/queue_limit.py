"""Who may begin a turn now: a bounded number at once, one of a conversation at a time; and when to come back."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass

from quern.engine.base import Priority
from quern.errors import ConversationBusy, QueueFull
from quern.turns.turn import Turn

LONGEST_RETRY_AFTER = 600
UNMEASURED_RETRY_AFTER = 10
"""Seconds."""

BUSY = (
    "A turn of this conversation is still running, and turns never interleave. Wait until its answer is complete, "
    "then send this prompt again."
)


_Key = tuple[str, str]
"""An owner and a conversation's id: what another owner's conversation does is not for this one to know."""


class Places:
    """Counts turns that are being admitted with those that are active. `retry_after` is asked when all are taken.

    Each priority has places of its own, so that what is urgent is not refused because of long chats, and nobody because
    of what runs in the background. What became a background turn since nobody reads it any more counts with the others
    where there are more of those than places.
    """

    def __init__(self, retry_after: Callable[[], int]) -> None:
        self._retry_after = retry_after
        self._starting: Counter[Priority] = Counter()
        self._admitting: set[_Key] = set()
        self._changing: Counter[_Key] = Counter()

    @contextmanager
    def place(self, priority: Priority, active: Collection[Turn], limit: int) -> Generator[None]:
        """Hold a place while a turn is being admitted. Raises QueueFull."""
        if self._rivals(priority, active, limit) >= limit:
            seconds = self._retry_after()
            msg = f"All {limit} places are taken: every running and waiting turn counts. Try again in {seconds} s."
            raise QueueFull(msg, seconds)
        self._starting[priority] += 1
        try:
            yield
        finally:
            self._starting[priority] -= 1

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


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running turn is: tokens so far, over how many seconds of decoding, of at most `max_tokens`."""

    generated_tokens: int
    decode_seconds: float
    max_tokens: int


class TurnLengths:
    """A running mean of how many tokens completed turns had: what a turn is likely to need."""

    WEIGHT = 0.2

    def __init__(self) -> None:
        self._mean: float | None = None

    def add(self, completion_tokens: int) -> None:
        """Count a completed turn."""
        self._mean = (
            completion_tokens
            if self._mean is None
            else self.WEIGHT * completion_tokens + (1 - self.WEIGHT) * self._mean
        )

    @property
    def typical(self) -> float | None:
        """Tokens; None until a turn was completed."""
        return self._mean


def retry_after(running: Iterable[Progress], typical_tokens: float | None) -> int:
    """Seconds until a place is likely to be free, from the running turns' measured speed.

    A turn is expected to reach the typical length (or, where it is past that already or nothing is known, its own
    max_tokens); the first one to get there frees a place.
    """
    estimates: list[float] = []
    for turn in running:
        if turn.generated_tokens < 2 or turn.decode_seconds <= 0:
            continue
        speed = turn.generated_tokens / turn.decode_seconds
        expected = typical_tokens if typical_tokens and typical_tokens > turn.generated_tokens else turn.max_tokens
        estimates.append((min(expected, turn.max_tokens) - turn.generated_tokens) / speed)
    if not estimates:
        return UNMEASURED_RETRY_AFTER
    return max(1, min(LONGEST_RETRY_AFTER, math.ceil(min(estimates))))
