"""What a turn builds on: the conversation that it continues, or the response."""

from __future__ import annotations

from collections.abc import Sequence

from quern.errors import ConversationBusy, ConversationNotFound, InvalidRequest, ResponseNotFound
from quern.store.conversations import ConversationStore
from quern.store.history import HistoryStore
from quern.store.responses import ResponseStore
from quern.turns.request import TurnRequest
from quern.types import Item, TurnState

NOT_FOUND = (
    "There is no such conversation. Send a conversation_id exactly as the server gave it, or leave it out to begin a "
    "new conversation."
)
NO_RESPONSE = (
    "There is no such response: the id is wrong, it was deleted, or it was created with store=false. Send an id "
    "exactly as the server gave it."
)


class Context:
    """Finds and checks what a request refers to; what another owner has does not exist."""

    def __init__(self, conversations: ConversationStore, responses: ResponseStore, history: HistoryStore) -> None:
        self._conversations = conversations
        self._responses = responses
        self._history = history

    async def check(self, request: TurnRequest) -> None:
        """Raises ConversationNotFound, ResponseNotFound, ConversationBusy or InvalidRequest."""
        if request.conversation_id is not None:
            await self.check_conversation(request.conversation_id, request.owner)
        if request.previous_id is not None:
            await self._check_previous(request.previous_id, request.owner)

    async def check_conversation(self, conversation_id: str, owner: str) -> None:
        """Raises ConversationNotFound."""
        if await self._conversations.get(conversation_id, owner) is None:
            raise ConversationNotFound(NOT_FOUND)

    async def history(self, request: TurnRequest) -> Sequence[Item]:
        """What was said before. Raises ResponseNotFound where a part of it was deleted."""
        if request.conversation_id is not None:
            return await self._history.of_conversation(request.conversation_id)
        if request.previous_id is not None:
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
