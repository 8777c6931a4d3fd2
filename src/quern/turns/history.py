"""What a turn builds on: the conversation that it continues, or the response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from quern.errors import ConversationBusy, ConversationNotFound, InvalidRequest, ResponseNotFound
from quern.store.history import HistoryStore
from quern.store.responses import ResponseStore
from quern.turns.request import TurnRequest
from quern.types import Item, ToolCall, ToolKind, ToolResult, TurnState

NO_CONVERSATION = (
    "There is no such conversation. Send a conversation_id exactly as the server gave it, or leave it out to begin a "
    "new conversation."
)
NO_RESPONSE = (
    "There is no such response: the id is wrong, it was deleted, or it was created with store=false. Send an id "
    "exactly as the server gave it."
)


def with_custom_results(items: Sequence[Item], history: Sequence[Item]) -> list[Item]:
    """The items, in which results of custom calls say so: Chat Completions has the same messages for all results."""
    calls = (item for item in (*history, *items) if isinstance(item, ToolCall))
    custom = {call.id for call in calls if call.kind is ToolKind.CUSTOM}
    return [
        replace(item, kind=ToolKind.CUSTOM)
        if isinstance(item, ToolResult) and item.kind is ToolKind.FUNCTION and item.call_id in custom
        else item
        for item in items
    ]


class HistoryLoader:
    """Finds and checks what a request refers to; what another owner has does not exist."""

    def __init__(self, responses: ResponseStore, history: HistoryStore) -> None:
        self._responses = responses
        self._history = history

    async def load(self, request: TurnRequest) -> Sequence[Item]:
        """What was said before.

        Raises ConversationNotFound, ResponseNotFound (also where a part of a response's history was deleted),
        ConversationBusy or InvalidRequest.
        """
        if request.conversation_id is not None:
            history = await self._history.of_conversation(request.conversation_id, request.caller.owner, request.fork)
            if history is None:
                raise ConversationNotFound(NO_CONVERSATION)
            return history
        if request.previous_id is not None:
            await self._check_previous(request.previous_id, request.caller.owner)
            return await self._history.of_response(request.previous_id)
        return []

    async def _check_previous(self, turn_id: str, owner: str) -> None:
        previous = await self._responses.get(turn_id, owner)
        if previous is None:
            raise ResponseNotFound(NO_RESPONSE)
        state = previous.turn.state
        if not state.terminal:
            raise ConversationBusy("The previous response is not complete yet. Wait until it is, then try again.")
        if state is not TurnState.COMPLETED:
            raise InvalidRequest(
                f"The previous response ended as {state}, so it can't be continued: its answer is not whole. Continue "
                f"the response before it, and ask again.",
                field="previous_response_id",
            )
