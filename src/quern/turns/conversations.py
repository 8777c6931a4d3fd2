"""Conversations as callers see them: begun, listed, read with their turns, changed, deleted."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from quern.access.usage import UsageMeter
from quern.config import ConversationSettings, TitleSource
from quern.errors import ConversationNotFound, InvalidRequest, ItemNotFound, StoreError
from quern.records import Conversation, Page, StoredItem, TurnRecord
from quern.store.conversations import ConversationStore
from quern.store.history import HistoryStore
from quern.store.items import NewItem
from quern.store.responses import ResponseStore
from quern.store.search import SearchStore
from quern.store.turns import TurnStore
from quern.turns.clock_jumps import CarefulClock
from quern.turns.history import NO_CONVERSATION
from quern.turns.runner import DELETED
from quern.turns.service import TurnService
from quern.turns.titles import title_of
from quern.types import Item

log = structlog.get_logger(__name__)

FORGET_EVERY = 60.0
"""Seconds."""

RESPONSE_DELETED = "The response was deleted."
NO_ITEM = "There is no such item in this conversation: the id is wrong, or it was deleted."


@dataclass(frozen=True, slots=True)
class Deleted:
    """How many of each were deleted. Responses of conversations went with these and are not counted."""

    conversations: int
    responses: int


@dataclass(frozen=True, slots=True)
class ConversationView:
    """A page of a conversation: its items in order, and the turns they belong to."""

    conversation: Conversation
    items: Page[StoredItem]
    turns: list[TurnRecord]


class ConversationService:
    """An owner's conversations; another owner's don't exist."""

    def __init__(
        self,
        conversations: ConversationStore,
        history: HistoryStore,
        turns: TurnStore,
        service: TurnService,
        *,
        search: SearchStore,
        responses: ResponseStore,
        usage: UsageMeter,
        settings: ConversationSettings,
    ) -> None:
        self._titles = settings.titles is not TitleSource.OFF
        self._keep = timedelta(days=settings.keep_days)
        self._search = search
        self._responses = responses
        self._usage = usage
        self._sweeping = asyncio.Lock()
        self._deleted = True  # what an earlier server deleted may be in the index yet
        self._conversations = conversations
        self._history = history
        self._turns = turns
        self._service = service

    async def page(
        self, owner: str, *, limit: int, after: str | None, archived: bool | None = None, pinned: bool | None = None
    ) -> Page[Conversation]:
        """Pinned ones first, then newest activity first. Raises InvalidRequest where `after` names no conversation."""
        return await self._conversations.page(owner, limit=limit, after=after, archived=archived, pinned=pinned)

    async def get(self, conversation_id: str, owner: str) -> Conversation:
        """One conversation. Raises ConversationNotFound."""
        conversation = await self._conversations.get(conversation_id, owner)
        if conversation is None:
            raise ConversationNotFound(NO_CONVERSATION)
        return conversation

    async def view(self, conversation_id: str, owner: str, *, limit: int, after: str | None) -> ConversationView:
        """One conversation with what was said. Raises ConversationNotFound, and InvalidRequest where `after` names no
        item.
        """
        conversation = await self.get(conversation_id, owner)
        page = await self._history.page(conversation_id, limit=limit, after=after)
        of_turns = dict.fromkeys(item.turn_id for item in page.items if item.turn_id is not None)
        return ConversationView(conversation, page, await self._turns.by_ids(list(of_turns)))

    async def create(
        self, owner: str, metadata: dict[str, str], items: Sequence[Item], title: str | None = None
    ) -> Conversation:
        """Begin a conversation without a turn. Raises StorageExceeded, and InvalidRequest for items that can't be
        stored.
        """
        now = datetime.now(UTC)
        if title is None and self._titles:
            title = title_of(items)
        conversation = Conversation(str(uuid.uuid4()), owner, now, now, metadata, title)
        with _items_blamed():
            await self._conversations.create(conversation, _with_ids(items), self._usage.storage_quota(owner))
        return conversation

    async def change(self, conversation_id: str, owner: str, values: Mapping[str, Any]) -> Conversation:
        """Replace what its owner decides, as in `ConversationStore.change`. Raises ConversationNotFound."""
        await self._conversations.change(conversation_id, owner, values)
        return await self.get(conversation_id, owner)

    async def items(
        self, conversation_id: str, owner: str, *, limit: int, after: str | None, newest_first: bool
    ) -> Page[StoredItem]:
        """What was said. Raises ConversationNotFound, and InvalidRequest where `after` names no item."""
        await self.get(conversation_id, owner)
        return await self._history.page(conversation_id, limit=limit, after=after, newest_first=newest_first)

    async def item(self, conversation_id: str, owner: str, item_id: str) -> StoredItem:
        """One item. Raises ConversationNotFound or ItemNotFound."""
        await self.get(conversation_id, owner)
        item = await self._history.item(conversation_id, item_id)
        if item is None:
            raise ItemNotFound(NO_ITEM)
        return item

    async def append(self, conversation_id: str, owner: str, items: Sequence[Item]) -> list[StoredItem]:
        """Put items at the end, without a turn. Raises ConversationNotFound, ConversationBusy, StorageExceeded or
        InvalidRequest.
        """
        await self.get(conversation_id, owner)
        new = _with_ids(items)
        with self._service.between_turns(conversation_id, owner), _items_blamed():
            quota = self._usage.storage_quota(owner)
            await self._history.append(conversation_id, new, datetime.now(UTC), quota)
        return [await self.item(conversation_id, owner, item.id) for item in new]

    async def delete_item(self, conversation_id: str, owner: str, item_id: str) -> Conversation:
        """Take an item out, and the title that was made of it. Raises ConversationNotFound, ConversationBusy or
        ItemNotFound.
        """
        found = await self.item(conversation_id, owner, item_id)
        with self._service.between_turns(conversation_id, owner):
            if not await self._history.delete(conversation_id, item_id, datetime.now(UTC)):
                raise ItemNotFound(NO_ITEM)
        self._deleted = True
        self._service.forget([conversation_id])
        conversation = await self.get(conversation_id, owner)
        if conversation.title is None or conversation.title != title_of([found.item]):
            return conversation
        return await self.change(conversation_id, owner, {"title": None})

    async def delete(self, conversation_id: str, owner: str) -> None:
        """Delete one, cancelling its running turn first. Raises ConversationNotFound."""
        running = self._service.running_turn(conversation_id, owner)
        if running is not None:
            await self._service.cancel(running, DELETED)
        if not await self._conversations.delete(conversation_id, owner):
            raise ConversationNotFound(NO_CONVERSATION)
        self._deleted = True
        started_meanwhile = self._service.running_turn(conversation_id, owner)
        if started_meanwhile is not None:
            await self._service.cancel(started_meanwhile, DELETED)
        self._service.forget([conversation_id])

    async def delete_all(self, owner: str) -> Deleted:
        """Delete every conversation and every stored response of the owner, and what could tell the answers of other
        turns again.
        """
        await self._cancel_all(owner)
        conversations = await self._conversations.delete_all(owner)
        self._deleted = True
        responses = await self._responses.delete_all(owner)
        await self._cancel_all(owner)  # turns that were being started when the first round looked
        self._service.forget([*conversations, *responses])
        return Deleted(len(conversations), len(responses))

    async def forget(self) -> None:
        """Delete what was kept for long enough, and for good what was deleted, from time to time, until cancelled."""
        clock = CarefulClock()
        while True:
            try:
                await self.sweep(clock.now())
            except StoreError as error:
                log.warning("old_conversations_not_forgotten", error=str(error))
            await asyncio.sleep(FORGET_EVERY)

    async def sweep(self, now: datetime) -> int:
        """Delete everybody's conversations and responses that are too old, and take what was deleted out of the index
        of the search; how many conversations were too old.
        """
        forgotten = await self._forget_old(now - self._keep) if self._keep else 0
        async with self._sweeping:
            if forgotten or self._deleted:
                self._deleted = False
                begin = True
                while await self._search.forget_deleted(begin=begin):
                    begin = False
        return forgotten

    async def _forget_old(self, before: datetime) -> int:
        conversations = await self._conversations.delete_older(before)
        responses = await self._responses.delete_older(before)
        if conversations or responses:
            log.info("old_conversations_forgotten", conversations=len(conversations), responses=len(responses))
            self._service.forget([*conversations, *responses])
        return len(conversations)

    async def _cancel_all(self, owner: str) -> None:
        for turn in self._service.turns_of(owner):
            if turn.plan.kept:
                reason = DELETED if turn.conversation_id is not None else RESPONSE_DELETED
                await self._service.cancel(turn, reason)


@contextmanager
def _items_blamed() -> Generator[None]:
    """The store doesn't know in which field of a request the items are that it can't hold."""
    try:
        yield
    except InvalidRequest as error:
        raise InvalidRequest(str(error), field="items") from error


def _with_ids(items: Sequence[Item]) -> list[NewItem]:
    return [NewItem(str(uuid.uuid4()), item) for item in items]
