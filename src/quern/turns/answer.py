"""A turn's answer, put together from its events."""

from __future__ import annotations

from collections.abc import Iterable

from quern.events import ArgumentsDelta, CallEnded, CallStarted, TextDelta, TurnEvent
from quern.store.items import NewItem
from quern.turns.identity import item_id
from quern.types import Item, Message, Role, ToolCall

PARAGRAPH_BREAK = "\n\n"
"""Stands between the texts before and after a call, where they are one text."""

OF_PREFILL = -1
IN_PLACE_OF_A_CALL = -2
"""Places of what is told nowhere else: before all the others, or the place of a call below this one."""


class Answer:
    """Texts and calls in the order in which they came. A call that is not whole is none: what the model wrote of it is
    text, so that nothing is lost and nobody carries it out.
    """

    def __init__(self, events: Iterable[TurnEvent] = ()) -> None:
        self._told = 0
        self._places: list[int] = []
        self._parts: list[list[str] | CallStarted] = []
        self._arguments: dict[int, list[str]] = {}
        for event in events:
            self.take(event)

    def take(self, event: TurnEvent) -> None:
        """Add an event; those that say nothing of the answer change nothing."""
        match event:
            case TextDelta(text):
                if not self._parts or isinstance(self._parts[-1], CallStarted) or self._places[-1] < 0:
                    self._add([])
                self._last_text().append(text)
            case CallStarted(index):
                self._add(event)
                self._arguments[index] = []
            case ArgumentsDelta(index, fragment):
                self._arguments[index].append(fragment)
            case CallEnded(whole=False, written=written):
                self._parts.pop()
                place = self._places.pop()
                if written:
                    self._parts.append([written])
                    self._places.append(IN_PLACE_OF_A_CALL - place)
            case _:
                return

    @property
    def text(self) -> str:
        """All of the texts, each a paragraph of its own; as `OneText` tells them."""
        return PARAGRAPH_BREAK.join("".join(part) for part in self._parts if isinstance(part, list))

    @property
    def calls(self) -> list[ToolCall]:
        """All of the calls."""
        return [item for item in self.items() if isinstance(item, ToolCall)]

    def items(self) -> list[Item]:
        """The answer as steps of a conversation. One that is empty is a message without text."""
        steps = [self._item(part) for part in self._parts]
        return steps or [Message(Role.ASSISTANT, "")]

    def new_items(self, turn_id: str, prefill: str = "") -> tuple[NewItem, ...]:
        """The same after the `prefill`, with their ids. What stands for a cut call does not get the id under which the
        call was told, nor one that anything else has.
        """
        places, items = self._places or [self._told], self.items()
        if prefill and isinstance(begun := items[0], Message):
            items[0] = Message(Role.ASSISTANT, prefill + begun.content)
        elif prefill:
            places, items = [OF_PREFILL, *places], [Message(Role.ASSISTANT, prefill), *items]
        return tuple(NewItem(item_id(turn_id, place), item) for place, item in zip(places, items, strict=True))

    def _add(self, part: list[str] | CallStarted) -> None:
        self._parts.append(part)
        self._places.append(self._told)
        self._told += 1

    def _item(self, part: list[str] | CallStarted) -> Item:
        if isinstance(part, list):
            return Message(Role.ASSISTANT, "".join(part))
        arguments = "".join(self._arguments[part.index])
        return ToolCall(part.call_id, part.name, arguments, part.kind, part.namespace)

    def _last_text(self) -> list[str]:
        last = self._parts[-1]
        return last if isinstance(last, list) else []


class OneText:
    """The texts of an answer as one text, while it is told; joined, the pieces are `Answer.text` of the same events,
    but for a call that is not whole: whoever reads along was told that as a call.
    """

    def __init__(self) -> None:
        self._begun = False
        self._called = False

    def take(self, event: TurnEvent) -> str:
        """What an event adds to it."""
        match event:
            case TextDelta(text):
                between = PARAGRAPH_BREAK if self._begun and self._called else ""
                self._begun, self._called = True, False
                return between + text
            case CallStarted():
                self._called = True
            case _:
                pass
        return ""
