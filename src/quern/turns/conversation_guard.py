"""One turn of a conversation at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator
from contextlib import contextmanager

from quern.errors import ConversationBusy
from quern.turns.turn import Turn

BUSY = (
    "A turn of this conversation is still running, and turns never interleave. Wait until its answer is complete, "
    "then send this prompt again."
)

_Key = tuple[str, str]
"""An owner and a conversation's id: what another owner's conversation does is not for this one to know."""


class ConversationGuard:
    """Knows the turns that are being admitted; is told of those that are active."""

    def __init__(self) -> None:
        self._admitting: set[_Key] = set()
        self._changing: Counter[_Key] = Counter()

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
