"""Other paths of a conversation: its last answer again, an earlier message said otherwise; seen and chosen.

Either begins a branch: the turn stands in it with what was said and the answer, and the branch becomes the head, which
is what all dialects continue. What was there stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from quern.errors import ConversationNotFound, InvalidRequest, ItemNotFound, TurnNotFound
from quern.records import Conversation, Fork, StoredItem
from quern.sampling import SamplingParams
from quern.store.branches import BranchStore
from quern.store.conversations import ConversationStore
from quern.store.turns import TurnStore
from quern.turns.archive import NO_TURN
from quern.turns.asked import Asked
from quern.turns.branch_tree import BEFORE_ALL, BranchTree
from quern.turns.history import NO_CONVERSATION
from quern.turns.identity import is_derived
from quern.turns.models import Models
from quern.turns.request import Caller
from quern.turns.service import TurnService
from quern.turns.turn import Turn
from quern.types import Item, Message, Role

NO_ITEM = "There is no such item in this conversation: the id is wrong, or it was deleted."
NOTHING_SAID = "Nothing was said in this conversation yet, so there is no answer to regenerate. Begin with a message."
NOT_EDITABLE = (
    "Only what was said to the model can be edited to go on from there, and this item is an answer, a call or a "
    "result. Edit the message before it, or regenerate the answer."
)
_SAMPLING = TypeAdapter(SamplingParams)


@dataclass(frozen=True, slots=True)
class _Question:
    """What another answer is given to: `items` in a branch that begins at `fork`; without one the head goes on.
    `turn_id`: the turn that was asked before, whose sampling is taken.
    """

    items: tuple[Item, ...]
    fork: Fork | None
    turn_id: str | None


class BranchService:
    """The branches of an owner's conversations; another owner's don't exist."""

    def __init__(
        self,
        conversations: ConversationStore,
        branches: BranchStore,
        turns: TurnStore,
        service: TurnService,
        *,
        models: Models,
        defaults: SamplingParams,
    ) -> None:
        self._models = models
        self._conversations = conversations
        self._branches = branches
        self._turns = turns
        self._service = service
        self._defaults = defaults

    async def regenerate(self, conversation_id: str, caller: Caller, changes: Mapping[str, Any]) -> Turn:
        """Answer once more what the last answer on the head's path was given to, as that was asked for but for the
        `changes` of its sampling. Where nothing has answered yet, the head goes on with an answer.

        Raises ConversationNotFound, InvalidRequest where there is nothing to answer, and what `TurnService.start` does.
        """
        await self._conversation(conversation_id, caller.owner)
        path = await self._branches.path(conversation_id)
        return await self._ask(conversation_id, caller, _last_question(path), changes)

    async def edit(
        self, conversation_id: str, item_id: str, content: str, caller: Caller, changes: Mapping[str, Any]
    ) -> Turn:
        """Say something else in place of a message, and go on from there. What was said in the same turn besides is
        said again. Raises as `regenerate`, and ItemNotFound.
        """
        await self._conversation(conversation_id, caller.owner)
        tree = await self._tree(conversation_id, 0)
        found = tree.item(item_id)
        if found is None:
            raise ItemNotFound(NO_ITEM)
        if not isinstance(found.item, Message) or found.item.role is Role.ASSISTANT:
            raise InvalidRequest(NOT_EDITABLE, field="item_id")
        path = await self._branches.path(conversation_id, Fork(found.branch, tree.end_of_turn(found)))
        edited = Message(found.item.role, content)
        return await self._ask(conversation_id, caller, _edited_question(path, found, edited), changes)

    async def tree(self, conversation_id: str, owner: str) -> BranchTree:
        """A conversation with all of its branches. Raises ConversationNotFound."""
        conversation = await self._conversation(conversation_id, owner)
        return await self._tree(conversation_id, conversation.head)

    async def shown(self, conversation_id: str, owner: str) -> Sequence[StoredItem]:
        """What was said on the path to the head. Raises ConversationNotFound."""
        await self._conversation(conversation_id, owner)
        return await self._branches.path(conversation_id)

    async def choose(
        self, conversation_id: str, owner: str, *, turn_id: str | None = None, item_id: str | None = None
    ) -> BranchTree:
        """Show and continue a branch that passes through a turn or an item: the head where it does already, else the
        one that was written last. Raises ConversationNotFound, ConversationBusy, TurnNotFound and ItemNotFound.
        """
        with self._service.between_turns(conversation_id, owner):
            tree = await self.tree(conversation_id, owner)
            place = tree.place_of_turn(turn_id) if turn_id is not None else tree.place_of_item(item_id or "")
            if place is None:
                raise TurnNotFound(NO_TURN) if turn_id is not None else ItemNotFound(NO_ITEM)
            await self._branches.choose(conversation_id, tree.through(*place))
        return await self.tree(conversation_id, owner)

    async def _conversation(self, conversation_id: str, owner: str) -> Conversation:
        conversation = await self._conversations.get(conversation_id, owner)
        if conversation is None:
            raise ConversationNotFound(NO_CONVERSATION)
        return conversation

    async def _tree(self, conversation_id: str, head: int) -> BranchTree:
        return BranchTree(*await self._branches.of_conversation(conversation_id), head)

    async def _ask(self, conversation_id: str, caller: Caller, question: _Question, changes: Mapping[str, Any]) -> Turn:
        if not question.items and question.fork is not None and question.fork.after == BEFORE_ALL:
            raise InvalidRequest(NOTHING_SAID)
        known = await self._turns.asked(question.turn_id) if question.turn_id is not None else None
        sampling, asked, model = self._defaults, Asked(), None
        if known is not None:
            sampling, asked = _SAMPLING.validate_python(known.sampling), Asked.load(known.asked)
            model = known.model_id if self._models.by_id(known.model_id) is not None else None
        sampling = replace(sampling, logprobs=None, **changes)
        again = asked.again(question.items, sampling, caller, conversation_id, question.fork)
        return await self._service.start(replace(again, model=model))


def _last_question(path: Sequence[StoredItem]) -> _Question:
    """Raises InvalidRequest where nothing was said."""
    if not path:
        raise InvalidRequest(NOTHING_SAID)
    last = path[-1]
    if last.turn_id is not None:
        of_turn = [stored for stored in path if stored.turn_id == last.turn_id]
        said = tuple(stored.item for stored in of_turn if not is_derived(stored.id))
        return _Question(said, _before(path, of_turn[0]), last.turn_id)
    answer = [*_trailing_answer(path)]
    if len(answer) == len(path):
        raise InvalidRequest(NOTHING_SAID)
    before = path[len(path) - len(answer) - 1]
    return _Question((), _before(path, answer[-1]) if answer else None, before.turn_id)


def _trailing_answer(path: Sequence[StoredItem]) -> list[StoredItem]:
    """What was put at the end as an answer, without a turn, the last item first."""
    answer: list[StoredItem] = []
    for stored in reversed(path):
        item = stored.item
        if stored.turn_id is not None or not isinstance(item, Message) or item.role is not Role.ASSISTANT:
            break
        answer.append(stored)
    return answer


def _edited_question(path: Sequence[StoredItem], found: StoredItem, edited: Message) -> _Question:
    if found.turn_id is None:
        return _Question((edited,), _before(path, found), None)
    of_turn = [stored for stored in path if stored.turn_id == found.turn_id]
    said = (edited if one.id == found.id else one.item for one in of_turn if not is_derived(one.id))
    return _Question(tuple(said), _before(path, of_turn[0]), found.turn_id)


def _before(path: Sequence[StoredItem], first: StoredItem) -> Fork:
    """Where a branch begins that has another item in the place of one on a path."""
    index = next(index for index, stored in enumerate(path) if stored.id == first.id)
    if not index:
        return Fork(0, BEFORE_ALL)
    return Fork(path[index - 1].branch, path[index - 1].position)
