"""Conversations as callers see them: listed, read with their turns, deleted."""

from __future__ import annotations

from dataclasses import dataclass

from quern.errors import ConversationNotFound
from quern.store.conversations import Conversation, ConversationStore, Page, StoredMessage
from quern.store.turns import TurnRecord, TurnStore
from quern.turns.runner import DELETED
from quern.turns.service import NOT_FOUND, TurnService


@dataclass(frozen=True, slots=True)
class ConversationView:
    """A page of a conversation: its messages in order, and the turns they belong to."""

    conversation: Conversation
    messages: Page[StoredMessage]
    turns: list[TurnRecord]


class ConversationService:
    """Reads and deletes an owner's conversations; another owner's don't exist."""

    def __init__(self, conversations: ConversationStore, turns: TurnStore, service: TurnService) -> None:
        self._conversations = conversations
        self._turns = turns
        self._service = service

    async def page(self, owner: str, *, limit: int, after: str | None) -> Page[Conversation]:
        """Newest activity first. Raises InvalidRequest where `after` names no conversation."""
        return await self._conversations.page(owner, limit=limit, after=after)

    async def view(self, conversation_id: str, owner: str, *, limit: int, after: str | None) -> ConversationView:
        """One conversation. Raises ConversationNotFound, and InvalidRequest where `after` names no message."""
        conversation = await self._conversations.get(conversation_id, owner)
        if conversation is None:
            raise ConversationNotFound(NOT_FOUND)
        messages = await self._conversations.messages(conversation_id, limit=limit, after=after)
        turns = await self._turns.by_ids(list(dict.fromkeys(message.turn_id for message in messages.items)))
        return ConversationView(conversation, messages, turns)

    async def delete(self, conversation_id: str, owner: str) -> None:
        """Delete one, cancelling its running turn first. Raises ConversationNotFound."""
        running = self._service.running_turn(conversation_id, owner)
        if running is not None:
            await self._service.cancel(running, DELETED)
        if not await self._conversations.delete(conversation_id, owner):
            raise ConversationNotFound(NOT_FOUND)
        started_meanwhile = self._service.running_turn(conversation_id, owner)
        if started_meanwhile is not None:
            await self._service.cancel(started_meanwhile, DELETED)

    async def delete_all(self, owner: str) -> int:
        """Delete every conversation of the owner and return how many there were."""
        await self._cancel_all(owner)
        deleted = await self._conversations.delete_all(owner)
        await self._cancel_all(owner)  # turns that were being started when the first round looked
        return deleted

    async def _cancel_all(self, owner: str) -> None:
        for running in self._service.running_turns(owner):
            await self._service.cancel(running, DELETED)
