"""Titles that the model writes: once a conversation has its first answer, in the background, in place of the rule's."""

from __future__ import annotations

import asyncio
import re
import uuid

import structlog

from quern.errors import QuernError
from quern.sampling import SamplingParams
from quern.store.conversations import ConversationStore
from quern.turns.request import Caller, ChatInput, TurnRequest
from quern.turns.service import TurnService
from quern.turns.titles import ELLIPSIS, title_of, title_of_text
from quern.turns.turn import Turn
from quern.types import DisconnectPolicy, FinishReason, Message, Role, ToolCall, TurnState

log = structlog.get_logger(__name__)

LONGEST_SHOWN = 2000
"""Characters of the question and of the answer that the model is shown."""

SAMPLING = SamplingParams(max_tokens=32, temperature=0.0, repetition_penalty=1.0)
# A small model does what comes last, in the language in which that is asked for.
ASKED = (
    "Question:\n{question}\n\nAnswer:\n{answer}\n\n---\nWrite a title for the conversation above: a noun phrase of at "
    "most six words, in the language of the question, without an explanation. Answer with the title alone."
)
ASKED_IN_CHINESE = (
    "问题：\n{question}\n\n回答：\n{answer}\n\n---\n"
    "请为上面的对话写一个中文标题：不超过十二个字的名词短语，不要解释。只回答标题本身。"
)
_HAN = re.compile(r"[\u4e00-\u9fff]")
_KANA = re.compile(r"[\u3040-\u30ff]")
COPIED = 20
"""Letters of a title with which the answer begins: then it is no title, and the model has answered once more."""
_PREFIX = re.compile(r"^(?:title|标题)\s*[:：]\s*", re.IGNORECASE)
_AROUND = " \t\"'`*_#“”‘’「」《》"


class Titling:
    """Is told of turns that have ended, and has titles written for their conversations."""

    def __init__(self, turns: TurnService, conversations: ConversationStore) -> None:
        self._turns = turns
        self._conversations = conversations
        self._tasks: set[asyncio.Task[None]] = set()

    def turn_ended(self, turn: Turn) -> None:
        """Have a title written, where that was a conversation's first answer."""
        end = turn.log.end
        if turn.conversation_id is None or end is None or end.state is not TurnState.COMPLETED:
            return
        if not isinstance(turn.said.given, ChatInput) or any(map(_is_answer, turn.said.history)):
            return
        task = asyncio.get_running_loop().create_task(self._write(turn, turn.conversation_id, turn.said.given))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def idle(self) -> None:
        """Wait until no title is being written."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Give up what is not written yet."""
        for task in self._tasks:
            task.cancel()
        await self.idle()

    async def _write(self, turn: Turn, conversation_id: str, given: ChatInput) -> None:
        rule = title_of((*turn.said.history, *given.items))
        try:
            conversation = await self._conversations.get(conversation_id, turn.owner)
            if conversation is None or rule is None or conversation.title != rule:
                return
            title = cleaned(await self._ask(turn, (*turn.said.history, *given.items)), turn.answer().text)
            if title is not None:
                await self._conversations.retitle(conversation_id, rule, title)
        except QuernError as error:
            log.info("title_not_written", conversation=conversation_id, error=str(error))

    async def _ask(self, turn: Turn, said: tuple[object, ...]) -> str:
        question = "\n".join(one.content for one in said if isinstance(one, Message) and one.role is Role.USER)
        asking = ASKED_IN_CHINESE if is_chinese(question) else ASKED
        text = asking.format(question=question[:LONGEST_SHOWN], answer=turn.answer().text[:LONGEST_SHOWN])
        caller = Caller(turn.principal, uuid.uuid4().hex, DisconnectPolicy.FINISH, background=True)
        asked = ChatInput((Message(Role.USER, text),))
        writing = await self._turns.start(
            TurnRequest(caller, asked, SAMPLING, background=True, fit_answer=True, model=turn.model.name)
        )
        end = await writing.log.ended()
        self._turns.forget([writing.id])  # what is quoted in it goes when its conversation is deleted
        written = writing.answer().text
        cut = end.finish_reason is FinishReason.LENGTH and "\n" not in written.strip()
        return written if end.state is TurnState.COMPLETED and not cut else ""


def is_chinese(text: str) -> bool:
    """Whether somebody writes Chinese, with code or without."""
    return _HAN.search(text) is not None and _KANA.search(text) is None


def cleaned(written: str, answer: str) -> str | None:
    """A title from what a model wrote: its first line, without what stands around it. None where there is none, where
    it is too long for one, or where it is how the answer begins.
    """
    title = title_of_text(written)
    if title is None or title.endswith(ELLIPSIS):
        return None
    title = _PREFIX.sub("", title.strip(_AROUND)).strip(_AROUND).removesuffix(".").removesuffix("。").rstrip()
    letters = _letters(title)
    copied = len(letters) >= COPIED and _letters(answer[:LONGEST_SHOWN]).startswith(letters)
    return title if title and not copied else None


def _letters(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


def _is_answer(item: object) -> bool:
    return isinstance(item, ToolCall) or (isinstance(item, Message) and item.role is Role.ASSISTANT)
