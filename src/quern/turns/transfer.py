"""Conversations taken elsewhere and brought from elsewhere, whole: all branches, turns and items.

What is brought gets ids of its own, so that it can be brought twice, and so that nobody learns whether an id is taken.
An answer's items still have ids that say so (`identity.py`).
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from quern.access.usage import UsageMeter
from quern.errors import ConversationNotFound
from quern.records import ConversationCopy, StoredItem, TurnCopy
from quern.store.transfer import TransferStore
from quern.turns.history import NO_CONVERSATION
from quern.turns.identity import is_derived, item_id
from quern.types import TurnState

NOT_OVER = "The turn was still running where this conversation was exported, so its answer is not whole."


class TransferService:
    """An owner's conversations; another owner's don't exist."""

    def __init__(self, store: TransferStore, usage: UsageMeter) -> None:
        self._store = store
        self._usage = usage

    async def export(self, conversation_id: str, owner: str) -> ConversationCopy:
        """All of a conversation. Raises ConversationNotFound."""
        copy = await self._store.read(conversation_id, owner)
        if copy is None:
            raise ConversationNotFound(NO_CONVERSATION)
        return copy

    async def export_all(self, owner: str) -> AsyncGenerator[ConversationCopy]:
        """All of the owner's conversations, the oldest first, each as it is when its turn comes."""
        for conversation_id in await self._store.ids(owner):
            copy = await self._store.read(conversation_id, owner)
            if copy is not None:  # else it was deleted meanwhile
                yield copy

    async def bring(self, copies: Sequence[ConversationCopy], owner: str) -> list[ConversationCopy]:
        """Make these the owner's, all or none, and return them with the ids that they got. Raises StorageExceeded
        and StoreError.
        """
        brought = [_with_new_ids(copy, owner) for copy in copies]
        await self._store.write(brought, self._usage.storage_quota(owner))
        return brought


def _with_new_ids(copy: ConversationCopy, owner: str) -> ConversationCopy:
    conversation = replace(copy.conversation, id=str(uuid.uuid4()), owner=owner)
    turn_ids = {turn.record.id: str(uuid.uuid4()) for turn in copy.turns}
    answered: Counter[str] = Counter()

    def renewed(stored: StoredItem) -> StoredItem:
        turn_id = turn_ids[stored.turn_id] if stored.turn_id is not None else None
        new = str(uuid.uuid4())
        if turn_id is not None and is_derived(stored.id):
            new = item_id(turn_id, answered[turn_id])
            answered[turn_id] += 1
        return replace(stored, id=new, conversation_id=conversation.id, turn_id=turn_id)

    turns = tuple(_ended(turn, turn_ids[turn.record.id], conversation.id, owner) for turn in copy.turns)
    return ConversationCopy(conversation, copy.branches, turns, tuple(map(renewed, copy.items)))


def _ended(turn: TurnCopy, turn_id: str, conversation_id: str, owner: str) -> TurnCopy:
    record = replace(turn.record, id=turn_id, conversation_id=conversation_id, owner=owner)
    if not record.state.terminal:
        finished = record.finished_at or record.started_at or record.created_at
        record = replace(record, state=TurnState.INTERRUPTED, error=NOT_OVER, finished_at=finished)
    return replace(turn, record=record)
