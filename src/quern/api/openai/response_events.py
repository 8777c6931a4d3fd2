"""A turn as the events of a response. Pure: events in, events out.

Source of the events and their order: "Streaming events" in OpenAI's API reference.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from quern.api.openai.chat_answer import token_json
from quern.api.openai.items import COMPLETED
from quern.api.openai.response_object import ResponseHead, end_status, response_json
from quern.api.openai.response_output import IN_PROGRESS, Event, OutputCall, OutputItem, OutputMessage
from quern.events import (
    ArgumentsDelta,
    CallEnded,
    CallStarted,
    Loading,
    Queued,
    TextDelta,
    TextLogprobs,
    TurnEnded,
    TurnEvent,
)
from quern.turns.identity import item_id
from quern.types import TurnState

QUEUED = "queued"
INCOMPLETE = "incomplete"
LAST_EVENTS = {
    "completed": "response.completed",
    INCOMPLETE: "response.incomplete",
    "cancelled": "response.incomplete",
    "failed": "response.failed",
}
"""By how the response ended. OpenAI's reference has no event for a cancelled one; its `status` says what it is."""


class ResponseEvents:
    """The events of one response, numbered from 0.

    They follow from the answer and how it ended alone, not from the queue, the prefill or a clock: read again from the
    store, a response has the same events with the same numbers.
    """

    def __init__(self, head: ResponseHead) -> None:
        self._head = head
        self._count = 0
        self._running = False
        self._output: list[OutputItem] = []
        self._end: TurnEnded | None = None
        self._logprobs: list[dict[str, Any]] = []

    def begin(self) -> list[Event]:
        """The first ones."""
        first = [self._lifecycle("response.created")]
        if self._head.background:
            first.append(self._lifecycle("response.queued"))
        return self._numbered(first)

    def take(self, event: TurnEvent) -> list[Event]:
        """What an event of the turn adds."""
        if isinstance(event, Loading | Queued):
            return []
        return self._numbered([*self._run(), *self._taken(event)])

    def keep_alive(self) -> Event:
        """An event that adds nothing. It has the number of the one before, so that others keep theirs."""
        return {"type": "keepalive", "sequence_number": max(self._count - 1, 0)}

    def response(self) -> dict[str, Any]:
        """The response as far as the events tell it."""
        return response_json(self._head, self._status, [item.json() for item in self._output], self._end)

    @property
    def _status(self) -> str:
        if self._end is not None:
            return self._ended_as(self._end)
        return QUEUED if self._head.background and not self._running else IN_PROGRESS

    def _run(self) -> list[Event]:
        if self._running:
            return []
        self._running = True
        return [self._lifecycle("response.in_progress")]

    def _taken(self, event: TurnEvent) -> list[Event]:
        last = self._output[-1] if self._output else None
        match event:
            case TextLogprobs(tokens):
                self._logprobs += [token_json(token) for token in tokens]
            case TextDelta(text) if isinstance(last, OutputMessage):
                return [last.write(text, self._of_text())]
            case TextDelta(text):
                message = OutputMessage(*self._place())
                return [*self._open(message), message.write(text, self._of_text())]
            case CallStarted():
                self._logprobs = []
                return self._open(OutputCall(*self._place(), event))
            case ArgumentsDelta(_, fragment) if isinstance(last, OutputCall):
                self._logprobs = []
                return last.write(fragment)
            case CallEnded(whole=whole) if isinstance(last, OutputCall):
                last.whole = whole
            case TurnEnded():
                return self._finish(event)
            case _:
                pass
        return []

    def _of_text(self) -> list[dict[str, Any]]:
        """The probabilities of the text that comes now; those of a call's tokens are told nowhere."""
        tokens, self._logprobs = self._logprobs, []
        return tokens

    def _place(self) -> tuple[int, str]:
        """Where the next item goes, and its stored id."""
        index = len(self._output)
        return index, item_id(self._head.turn_id, index)

    def _open(self, item: OutputItem) -> list[Event]:
        last = self._output[-1] if self._output else None
        whole = not isinstance(last, OutputCall) or last.whole
        closed = last.close(COMPLETED if whole else INCOMPLETE) if last is not None else []
        self._output.append(item)
        return [*closed, *item.opening()]

    def _finish(self, end: TurnEnded) -> list[Event]:
        # An answer that is empty is a message without text, as in the history of what follows.
        opened = (
            [] if self._output or end.state is not TurnState.COMPLETED else self._open(OutputMessage(*self._place()))
        )
        status = self._ended_as(end)
        last = self._output[-1] if self._output else None
        whole = last.whole if isinstance(last, OutputCall) else status == "completed"
        closed = last.close(COMPLETED if whole else INCOMPLETE) if last is not None else []
        self._end = end
        return [*opened, *closed, self._lifecycle(LAST_EVENTS[status])]

    def _ended_as(self, end: TurnEnded) -> str:
        """How the response ended: a call that is not whole, for whatever reason, leaves it incomplete."""
        cut_off = any(isinstance(item, OutputCall) and not item.whole for item in self._output)
        return INCOMPLETE if cut_off and end.state is TurnState.COMPLETED else end_status(end)

    def _lifecycle(self, kind: str) -> Event:
        return {"type": kind, "response": self.response()}

    def _numbered(self, events: Iterable[Event]) -> list[Event]:
        numbered: list[Event] = []
        for event in events:
            numbered.append({"type": event["type"], "sequence_number": self._count, **event})
            self._count += 1
        return numbered


def whole_response(head: ResponseHead, events: Iterable[TurnEvent]) -> dict[str, Any]:
    """The response after these events of its turn."""
    builder = ResponseEvents(head)
    for event in events:
        builder.take(event)
    return builder.response()
