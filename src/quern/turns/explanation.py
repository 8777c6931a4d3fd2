"""Why a turn was slow: which part of its prompt the cache did not know, and where that part came from.

A position among a prompt's tokens becomes one in its text, and the message is found by rendering shorter and shorter
conversations with the model's own template: what those have in common with the whole is where a message ends. That
takes a few renderings, so it is done when somebody asks, in a thread.
"""

from __future__ import annotations

import json
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from quern.errors import InvalidRequest, ModelError
from quern.prompt.chat import text_of
from quern.prompt.codec import TextCodec
from quern.turns.preparation import offered_tools
from quern.turns.recent import RecentTurn, common_length
from quern.turns.request import ChatInput
from quern.types import Item, Message, Role, ToolCall

ROUNDING = 64
"""Tokens. Caches know whole blocks; where an earlier prompt is alike by less than this beyond what the cache knew, the
first difference is where they part, and not at the block's edge."""

LONGEST_EXCERPT = 80
FRAME_TOKENS, LONGEST_FRAME = 4, 40
"""Tokens, and characters: what a template puts between two messages."""


class Reason(StrEnum):
    """Why the cache did not know a token."""

    NEW = "new"
    """No earlier prompt of this owner that is remembered begins like this one."""
    ADDED = "added"
    """An earlier prompt and its answer are known to their end, and this one goes on."""
    CHANGED = "changed"
    """An earlier prompt has something else at this place."""
    ANSWER_CHANGED = "answer_changed"
    """An earlier answer was sent back as other tokens than those that were generated."""
    NO_LONGER_CACHED = "no_longer_cached"
    """An earlier prompt has the same here, but the cache had given it away, was not yet done with it, or keeps it for
    another conversation."""


class Origin(StrEnum):
    """What part of a prompt a token belongs to."""

    REQUEST = "request"
    HISTORY = "history"
    INSTRUCTIONS = "instructions"
    TOOLS = "tools"
    TEMPLATE = "template"
    PREFILL = "prefill"
    PROMPT = "prompt"
    """A prompt that is a text or ids, not messages."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a conversation something is. `message` counts what the template sees as messages, from 0; `index` counts
    within the origin (the request's messages, the tools).
    """

    origin: Origin
    message: int | None = None
    index: int | None = None
    role: str | None = None
    field: str | None = None


@dataclass(frozen=True, slots=True)
class FirstUnknown:
    """The first token of a prompt that the cache did not know. `excerpt`: the text from there. `like`: the earlier turn
    whose prompt begins most like this one, in `alike` tokens; `parts`: where they part.
    """

    token: int
    place: Place
    reason: Reason
    excerpt: str
    like: str | None = None
    alike: int = 0
    parts: Place | None = None


def first_unknown(
    codec: TextCodec, turn: RecentTurn, cached: int, earlier: Iterable[RecentTurn]
) -> FirstUnknown | None:
    """Where the cache's knowledge of a prompt ended; None where it knew everything but the last token, which is always
    computed. `earlier`: the owner's turns before it, the newest first. Takes milliseconds, for a long prompt some
    hundreds.
    """
    prompt = turn.prompt
    if cached >= len(prompt) - 1:
        return None
    like, alike = _most_alike(turn, earlier)
    if like is None or alike < max(1, cached):
        return _unknown_at(codec, turn, cached, Reason.NEW)
    if alike >= cached + ROUNDING:
        return _unknown_at(codec, turn, cached, Reason.NO_LONGER_CACHED, (like.id, alike))
    if alike >= len(prompt):
        return None
    if alike == like.tokens:
        reason = Reason.ADDED
    else:
        reason = Reason.CHANGED if alike < len(like.prompt) else Reason.ANSWER_CHANGED
    return _unknown_at(codec, turn, alike, reason, (like.id, alike))


def _most_alike(turn: RecentTurn, earlier: Iterable[RecentTurn]) -> tuple[RecentTurn | None, int]:
    found: RecentTurn | None = None
    alike = 0
    for one in earlier:
        if one.cache_salt != turn.cache_salt:
            continue
        length = common_length(turn.prompt, one.prompt)
        if length == len(one.prompt):
            length += common_length(turn.prompt[length:], one.generated)
        if length > alike:
            found, alike = one, length
    return found, alike


def _unknown_at(
    codec: TextCodec, turn: RecentTurn, token: int, reason: Reason, like: tuple[str | None, int] = (None, 0)
) -> FirstUnknown:
    pieces = Pieces(codec)
    excerpt = pieces.text(turn.prompt[token : token + LONGEST_EXCERPT])[:LONGEST_EXCERPT]
    place = place_of(codec, turn, pieces.after_frame(turn.prompt, token))
    named, alike = like
    parts = place_of(codec, turn, pieces.after_frame(turn.prompt, alike)) if token < alike < len(turn.prompt) else place
    return FirstUnknown(token, place, reason, excerpt, named, alike, parts if named is not None else None)


class Pieces:
    """The texts of tokens, special ones by their names."""

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._names = {token: name for name, token in codec.tokenizer.special.control.items()}

    @property
    def names(self) -> Iterable[str]:
        """Those of special tokens."""
        return self._names.values()

    def text(self, ids: Iterable[int]) -> str:
        """What ids stand for."""
        token_bytes = self._codec.tokenizer.token_bytes
        joined = b"".join(self._names[one].encode() if one in self._names else token_bytes(one) for one in ids)
        return joined.decode(errors="replace")

    def after_frame(self, ids: array[int], token: int) -> int:
        """The position after the special tokens and line breaks that stand here: they close what came before."""
        for place in range(token, min(token + FRAME_TOKENS, len(ids))):
            if ids[place] not in self._names and self.text(ids[place : place + 1]).strip():
                return place
        return token


def place_of(codec: TextCodec, turn: RecentTurn, token: int) -> Place:
    """Which part of a turn's prompt the token at a position belongs to."""
    given = turn.said.given
    if not isinstance(given, ChatInput):
        return Place(Origin.PROMPT, field="prompt")
    pieces = Pieces(codec)
    text = pieces.text(turn.prompt)
    offset = len(pieces.text(turn.prompt[:token]))
    instructions = [Message(Role.SYSTEM, given.instructions)] if given.instructions is not None else []
    items = [*instructions, *turn.said.history, *given.items]
    try:
        number = _item_at(codec, given, items, text, offset)
    except (InvalidRequest, ModelError):  # the template takes no shorter conversation than this one
        return Place(Origin.TEMPLATE)
    if number is None:
        beginning = len(text) - len(given.prefill)
        return Place(Origin.PREFILL if given.prefill and offset >= beginning else Origin.TEMPLATE)
    if number == 0 and (place := _before_first(given, items[0], text, offset, pieces.names)) is not None:
        return place
    return _place(items, number, len(instructions), len(turn.said.history))


def _item_at(codec: TextCodec, given: ChatInput, items: Sequence[Item], text: str, offset: int) -> int | None:
    """The index of the item that a position of the text is in; None for what comes after all of them."""
    tools = offered_tools(given.tool_use)

    def end_of(count: int) -> int:
        return common_length(codec.render_chat(items[:count], tools), text)

    if end_of(len(items)) <= offset:
        return None
    low, high = 0, len(items)  # it is not within the first `low`, but within the first `high`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if end_of(middle) > offset else (middle, high)
    return low


def _before_first(given: ChatInput, first: Item, text: str, offset: int, special: Iterable[str]) -> Place | None:
    """The place of what templates put before or into the first message: tools and words of their own."""
    content = text_of(first).strip()
    marks = [(0, Place(Origin.TEMPLATE))]
    for index, tool in enumerate(offered_tools(given.tool_use)):
        name = re.search(rf"{re.escape(json.dumps(tool.name))}|<name>{re.escape(tool.name)}</name>", text)
        if name is not None:
            line = text.rfind("\n", 0, name.start()) + 1
            marks.append((line, Place(Origin.TOOLS, index=index, field=f"tools.{index}")))
    if content and (start := text.find(content)) >= 0:
        frame = max(text.rfind(name, 0, start) for name in special)
        begins = frame if frame >= 0 and start - frame <= LONGEST_FRAME else start
        marks.append((begins, Place(Origin.REQUEST)))  # stands for the item itself
    marks.sort(key=lambda mark: mark[0])
    place = marks[bisect_right([start for start, _ in marks], offset) - 1][1]
    return None if place.origin is Origin.REQUEST else place


def _place(items: Sequence[Item], number: int, instructions: int, history: int) -> Place:
    """The place of an item: an assistant's calls go with what it said before them."""
    numbers = _message_numbers(items)
    item, message = items[number], numbers[number]
    if number < instructions:
        origin, begins = Origin.INSTRUCTIONS, 0
    elif number < instructions + history:
        origin, begins = Origin.HISTORY, instructions
    else:
        origin, begins = Origin.REQUEST, instructions + history
    if isinstance(item, ToolCall):
        calls = [one for one in range(number) if numbers[one] == message and isinstance(items[one], ToolCall)]
        role, field = Role.ASSISTANT, f"tool_calls.{len(calls)}.function.arguments"
    else:
        role = item.role if isinstance(item, Message) else Role.TOOL
        field = "content"
    return Place(origin, message, message - numbers[begins], role.value, field)


def _message_numbers(items: Sequence[Item]) -> list[int]:
    numbers: list[int] = []
    of_assistant = False
    for item in items:
        joins = isinstance(item, ToolCall) and of_assistant
        numbers.append((numbers[-1] if numbers else -1) + (not joins))
        of_assistant = isinstance(item, ToolCall) or (isinstance(item, Message) and item.role is Role.ASSISTANT)
    return numbers
