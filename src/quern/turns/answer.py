"""A turn's answer, put together from its events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from quern.prompt.tools.events import AnswerEvent as ParsedEvent
from quern.prompt.tools.events import AnswerParser, AnswerText, CallArguments, CallEnded, CallStarted
from quern.store.items import NewItem
from quern.turns.events import AnswerEvent, TurnCallArguments, TurnCallEnded, TurnCallStarted, TurnEvent, TurnText
from quern.turns.identity import call_id, item_id
from quern.types import Item, Message, Role, ToolCall


class AnswerReader:
    """What the model writes, as a turn's events. Without a parser everything is text; with `single_call` the answer
    ends after its first call.
    """

    def __init__(self, turn_id: str, parser: AnswerParser | None, *, single_call: bool = False) -> None:
        self._turn_id = turn_id
        self._parser = parser
        self._single_call = single_call
        self._arguments_begun = False
        self.calls_ended = 0
        self.cut_off = False
        """Whether the end of the answer cut off a call."""

    @property
    def repairs(self) -> int:
        """Slips of the model that were mended so far."""
        return self._parser.repairs if self._parser is not None else 0

    @property
    def over(self) -> bool:
        """Whether the answer is whole, whatever the model goes on to write."""
        return self._single_call and self.calls_ended > 0

    def push(self, text: str) -> list[AnswerEvent]:
        """Take what comes next."""
        if self._parser is None:
            return [TurnText(text)] if text else []
        return [] if self.over else self._events(self._parser.push(text))

    def finish(self) -> list[AnswerEvent]:
        """The end: what was held back. A call that it cuts off gets nothing that would make it look whole."""
        return [] if self._parser is None or self.over else self._events(self._unclosed(self._parser.finish()))

    def _events(self, parsed: Iterable[ParsedEvent]) -> list[AnswerEvent]:
        events: list[AnswerEvent] = []
        for event in parsed:
            events.append(self._event(event))
            if self.over:
                break
        return events

    def _unclosed(self, parsed: Sequence[ParsedEvent]) -> Iterable[ParsedEvent]:
        """The last events, without what completes the arguments of a call that is cut off: many clients carry out
        whatever they can parse. What has no arguments yet gets a brace, as none at all are taken for an empty object.
        """
        cut = {event.index for event in parsed if isinstance(event, CallEnded) and not event.whole}
        for event in parsed:
            if not isinstance(event, CallArguments) or event.index not in cut:
                yield event
            elif not self._arguments_begun:
                yield CallArguments(event.index, "{")

    def _event(self, event: ParsedEvent) -> AnswerEvent:
        match event:
            case AnswerText(text):
                return TurnText(text)
            case CallStarted(index, name):
                self._arguments_begun = False
                return TurnCallStarted(index, call_id(self._turn_id, index), name)
            case CallArguments(index, fragment):
                self._arguments_begun = True
                return TurnCallArguments(index, fragment)
            case CallEnded(index, whole):
                self.calls_ended += 1
                self.cut_off = not whole
                return TurnCallEnded(index, whole)


class Answer:
    """Texts and calls in the order in which they came; a call that was cut off is none."""

    def __init__(self, events: Iterable[TurnEvent] = ()) -> None:
        self._cut_off = 0
        self._parts: list[list[str] | TurnCallStarted] = []
        self._arguments: dict[int, list[str]] = {}
        for event in events:
            self.take(event)

    def take(self, event: TurnEvent) -> None:
        """Add an event; those that say nothing of the answer change nothing."""
        match event:
            case TurnText(text):
                if not self._parts or isinstance(self._parts[-1], TurnCallStarted):
                    self._parts.append([])
                self._last_text().append(text)
            case TurnCallStarted(index):
                self._parts.append(event)
                self._arguments[index] = []
            case TurnCallArguments(index, fragment):
                self._arguments[index].append(fragment)
            case TurnCallEnded(whole=False):
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

    def new_items(self, turn_id: str) -> tuple[NewItem, ...]:
        """The same, with their ids. A message without text does not get the id under which a cut call was told."""
        first = 0 if self._parts else self._cut_off
        return tuple(NewItem(item_id(turn_id, index), item) for index, item in enumerate(self.items(), first))

    def _item(self, part: list[str] | TurnCallStarted) -> Item:
        if isinstance(part, list):
            return Message(Role.ASSISTANT, "".join(part))
        return ToolCall(part.call_id, part.name, "".join(self._arguments[part.index]))

    def _last_text(self) -> list[str]:
        last = self._parts[-1]
        return last if isinstance(last, list) else []
