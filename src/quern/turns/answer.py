"""A turn's answer, put together from its events."""

from __future__ import annotations

from collections.abc import Iterable

from quern.events import ArgumentsDelta, CallEnded, CallStarted, TextDelta, TurnEvent
from quern.store.items import NewItem
from quern.turns.identity import item_id
from quern.types import Item, Message, Role, ToolCall


class Answer:
    """Texts and calls in the order in which they came; a call that was cut off is none."""

    def __init__(self, events: Iterable[TurnEvent] = ()) -> None:
        self._cut_off = 0
        self._parts: list[list[str] | CallStarted] = []
        self._arguments: dict[int, list[str]] = {}
        for event in events:
            self.take(event)

    def take(self, event: TurnEvent) -> None:
        """Add an event; those that say nothing of the answer change nothing."""
        match event:
            case TextDelta(text):
                if not self._parts or isinstance(self._parts[-1], CallStarted):
                    self._parts.append([])
                self._last_text().append(text)
            case CallStarted(index):
                self._parts.append(event)
                self._arguments[index] = []
            case ArgumentsDelta(index, fragment):
                self._arguments[index].append(fragment)
            case CallEnded(whole=False):
                self._parts.pop()
                self._cut_off += 1
            case _:
                return

    @property
    def text(self) -> str:
        """All of the texts."""
        return "".join(piece for part in self._parts if isinstance(part, list) for piece in part)

    @property
    def calls(self) -> list[ToolCall]:
        """All of the calls."""
        return [item for item in self.items() if isinstance(item, ToolCall)]

    def items(self) -> list[Item]:
        """The answer as steps of a conversation. One that is empty is a message without text."""
        steps = [self._item(part) for part in self._parts]
        return steps or [Message(Role.ASSISTANT, "")]

    def new_items(self, turn_id: str, prefill: str = "") -> tuple[NewItem, ...]:
        """The same after the `prefill`, with their ids. A message without text does not get the id under which a cut
        call was told.
        """
        first = 0 if self._parts else self._cut_off
        items = self.items()
        if prefill and isinstance(begun := items[0], Message):
            items[0] = Message(Role.ASSISTANT, prefill + begun.content)
        elif prefill:
            items, first = [Message(Role.ASSISTANT, prefill), *items], -1
        return tuple(NewItem(item_id(turn_id, index), item) for index, item in enumerate(items, first))

    def _item(self, part: list[str] | CallStarted) -> Item:
        if isinstance(part, list):
            return Message(Role.ASSISTANT, "".join(part))
        arguments = "".join(self._arguments[part.index])
        return ToolCall(part.call_id, part.name, arguments, part.kind, part.namespace)

    def _last_text(self) -> list[str]:
        last = self._parts[-1]
        return last if isinstance(last, list) else []
