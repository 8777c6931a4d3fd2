"""Responses as callers come back to them: read, followed while they run, cancelled, deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from quern.errors import InvalidRequest, ItemNotFound, ResponseNotFound
from quern.records import Page, ResponseRecord, StoredItem, TurnRecord
from quern.store.history import HistoryStore
from quern.store.responses import ResponseStore
from quern.turns.archive import TurnArchive
from quern.turns.decoder import OutputParser
from quern.turns.event_log import TurnLog
from quern.turns.history import NO_RESPONSE
from quern.turns.identity import is_derived
from quern.turns.loops import RepeatedCall
from quern.turns.models import Models
from quern.turns.preparation import call_parser
from quern.turns.request import ToolUse
from quern.turns.service import TurnService
from quern.turns.turn import Turn
from quern.types import Item, LoopKind, TurnState

ReadToolUse = Callable[[Mapping[str, Any]], ToolUse]
"""A dialect's: from a response's body to the tools that the model was shown."""

CANCELLED = "The response was cancelled."
NO_ITEM = (
    "An item that the input refers to does not exist: its id is wrong, or it was deleted. Send the item itself instead "
    "of an item_reference."
)


@dataclass(frozen=True, slots=True)
class OpenResponse:
    """A response and its events; `turn` is there while it runs."""

    record: ResponseRecord
    log: TurnLog
    turn: Turn | None


class ResponseService:
    """An owner's responses; another owner's don't exist."""

    def __init__(
        self,
        models: Models,
        responses: ResponseStore,
        history: HistoryStore,
        archive: TurnArchive,
        service: TurnService,
    ) -> None:
        self._archive = archive
        self._models = models
        self._responses = responses
        self._history = history
        self._service = service

    async def open(self, turn_id: str, owner: str, read_tool_use: ReadToolUse) -> OpenResponse:
        """A response, with its events as they came. Raises ResponseNotFound."""
        turn = self._service.turn(turn_id, owner)
        record = await self._record(turn_id, owner)
        if turn is not None:
            return OpenResponse(record, turn.log, turn)
        return OpenResponse(record, await self._replay(record, read_tool_use(record.body)), None)

    async def page(self, owner: str, *, limit: int, after: str | None, newest_first: bool) -> Page[ResponseRecord]:
        """The owner's responses as they are now. Raises InvalidRequest where `after` names none."""
        page = await self._responses.page(owner, limit=limit, after=after, newest_first=newest_first)
        return replace(page, items=tuple(self._as_it_is(record) for record in page.items))

    async def input_items(self, turn_id: str, owner: str) -> list[StoredItem]:
        """What was said to the model in this response. Raises ResponseNotFound."""
        await self._record(turn_id, owner)
        items = await self._history.of_turn(turn_id)
        return [item for item in items if not is_derived(item.id)]

    async def history(self, turn_id: str | None, owner: str) -> list[Item]:
        """All that led to a response, and itself; nothing without one. Raises ResponseNotFound."""
        if turn_id is None:
            return []
        await self._record(turn_id, owner)
        return await self._history.of_response(turn_id)

    async def referenced(self, item_ids: Sequence[str], owner: str) -> dict[str, Item]:
        """The owner's items of these ids, wherever they were said. Raises ItemNotFound."""
        found = await self._history.owned(item_ids, owner) if item_ids else {}
        if not found.keys() >= set(item_ids):
            raise ItemNotFound(NO_ITEM)
        return found

    async def cancel(self, turn_id: str, owner: str) -> None:
        """End a response that runs, and wait until that is stored; harmless where it has ended.

        Raises ResponseNotFound.
        """
        await self._record(turn_id, owner)
        turn = self._service.turn(turn_id, owner)
        if turn is not None:
            await self._service.cancel(turn, CANCELLED)

    async def delete(self, turn_id: str, owner: str) -> None:
        """Delete a response, cancelling it first where it runs. Raises ResponseNotFound."""
        await self.cancel(turn_id, owner)
        record = await self._record(turn_id, owner)
        if not record.turn.state.terminal:
            raise InvalidRequest("The end of this response could not be saved yet, so it can't be deleted. Try again.")
        await self._responses.delete(record)
        if record.turn.conversation_id is None:
            self._service.forget([turn_id])

    def _as_it_is(self, record: ResponseRecord) -> ResponseRecord:
        """That a turn runs is stored a moment after it began."""
        turn = self._service.turn(record.turn.id, record.turn.owner)
        if turn is None or turn.running_at is None:
            return record
        return replace(record, turn=replace(record.turn, state=TurnState.RUNNING))

    async def _record(self, turn_id: str, owner: str) -> ResponseRecord:
        record = await self._responses.get(turn_id, owner)
        if record is None:
            raise ResponseNotFound(NO_RESPONSE)
        return record

    async def _replay(self, record: ResponseRecord, use: ToolUse) -> TurnLog:
        """The events of a turn that has ended: those of one in the background as they came, where they are kept."""
        turn = record.turn
        ended = await self._archive.ended(turn) if record.background else None
        if ended is not None:
            return ended.log
        codec = (self._models.by_id(turn.model_id) or self._models.default).codec
        parser = OutputParser(call_parser(codec, use, turn.id), single_call=not use.parallel, repeated=_repeated(turn))
        return await asyncio.to_thread(_parsed_again, parser, turn)


def _parsed_again(parser: OutputParser, turn: TurnRecord) -> TurnLog:
    """Takes milliseconds, for a long answer some tens."""
    return TurnLog([*parser.push(turn.text or ""), *parser.finish(), *([turn.end()] if turn.state.terminal else [])])


def _repeated(turn: TurnRecord) -> RepeatedCall | None:
    """The call that was not told, as its loop ended with it."""
    return RepeatedCall(turn.loop) if turn.loop is not None and turn.loop.kind is LoopKind.CALLS else None
