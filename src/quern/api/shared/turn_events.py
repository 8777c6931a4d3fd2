"""A turn's events as a stream that can be taken up again: what was missed, then what happens.

An event of the answer has a number, the same whenever it is told, which is its `id`. What only the end brought (text
that might have become a stop string, a call that was cut off) has none where the turn may go on, for it would come
otherwise then. The terminal event's id says how many came before, and that the end was seen. What tells of waiting has
none: it is not told again.
"""

from __future__ import annotations

import re
import time
from typing import Any

from quern.api.shared.errors import validation_error
from quern.api.shared.sse import EventStreamResponse, StreamEncoder, to_json
from quern.api.shared.turn_json import timings_json, usage_json
from quern.events import (
    ArgumentsDelta,
    CallEnded,
    CallStarted,
    Loading,
    Prefill,
    Queued,
    TextDelta,
    TurnEnded,
    TurnEvent,
)
from quern.turns.event_log import TurnLog
from quern.turns.service import TurnService
from quern.turns.turn_reports import OpenTurn

LAST_EVENT_ID = "last-event-id"
EVENT_ID = re.compile(r"([0-9]{1,12})(-end)?")


class Seen:
    """What a reader has seen: so many events, and the end or not."""

    def __init__(self, event_id: str | None, field: tuple[str, str]) -> None:
        """Raises RequestValidationError for an id that no event has."""
        match = EVENT_ID.fullmatch(event_id.strip()) if event_id is not None else None
        if event_id is not None and match is None:
            message = "An event's id is a number, as the stream gave it (`id:`); 0 is before the first."
            raise validation_error(field, "event_id", message, event_id)
        self.events = int(match[1]) if match is not None else 0
        self.end = match is not None and match[2] is not None


def count_of(log: TurnLog) -> int:
    """How many numbered events an ended turn has."""
    end = log.end
    counted = log.events if end is not None and end.whole else log.events[: log.settled]
    return sum(_told(event) is not None for event in counted)


FROM_THE_FIRST = Seen(None, ("query", "after"))


def turn_stream(turns: TurnService, opened: OpenTurn, seen: Seen) -> EventStreamResponse:
    """The answer that has what comes after what a reader has `seen`."""
    encoder = TurnEventEncoder(turns, opened, seen)
    return EventStreamResponse(encoder, [opened.log], [opened.turn] if opened.turn is not None else [])


class TurnEventEncoder(StreamEncoder):
    """Writes what comes after what a reader has `seen`."""

    def __init__(self, turns: TurnService, opened: OpenTurn, seen: Seen) -> None:
        self._turns = turns
        self._opened = opened
        self._after = seen.events
        self._taken = 0
        self._number = 0
        self._tail: list[TurnEvent] = []

    def begin(self) -> bytes:
        """Which turn it is."""
        record = self._opened.record
        return _frame(
            "turn",
            {
                "id": record.id,
                "state": record.state.value,
                "conversation_id": record.conversation_id,
                "request_id": record.request_id,
                "model": record.model_id,
            },
        )

    def encode(self, index: int, event: TurnEvent) -> bytes:  # noqa: ARG002 (there is one turn)
        """The next event of the log."""
        self._taken += 1
        match event:
            case Loading(progress):
                return self._waiting("loading", {"progress": round(progress, 3)})
            case Queued(position):
                return self._waiting("queued", {"position": position, "seconds_left": self._wait(position)})
            case Prefill():
                return self._waiting("prefill", self._prefill(event))
            case TurnEnded():
                return self._end(event)
            case _:
                settled = self._opened.log.settled
                if settled is not None and self._taken > settled:
                    self._tail.append(event)
                    return b""
                return self._numbered(event)

    def _waiting(self, name: str, data: dict[str, Any]) -> bytes:
        return _frame(name, data) if not self._number and not self._after else b""

    def _wait(self, position: int) -> float | None:
        turn = self._opened.turn
        seconds = self._turns.expected_wait(turn, position) if turn is not None else None
        return round(seconds, 1) if seconds is not None else None

    def _prefill(self, event: Prefill) -> dict[str, Any]:
        turn, computed = self._opened.turn, event.done - event.cached
        seconds = None
        if turn is not None and turn.running_at is not None and computed > 0:
            seconds = round((event.total - event.done) * (time.monotonic() - turn.running_at) / computed, 1)
        return {"done": event.done, "total": event.total, "cached": event.cached, "seconds_left": seconds}

    def _numbered(self, event: TurnEvent) -> bytes:
        told = _told(event)
        if told is None:
            return b""
        self._number += 1
        return _frame(*told, event_id=str(self._number)) if self._number > self._after else b""

    def _end(self, end: TurnEnded) -> bytes:
        tail = [self._numbered(event) if end.whole else _provisional(event) for event in self._tail]
        return b"".join([*tail, _frame("ended", _ended(end), event_id=f"{max(self._number, self._after)}-end")])


def _told(event: TurnEvent) -> tuple[str, dict[str, Any]] | None:
    """An event of the answer: its name and what it says."""
    match event:
        case TextDelta(text):
            return "text", {"text": text}
        case CallStarted(index, call_id, name, kind, namespace):
            call = {"index": index, "call_id": call_id, "name": name, "kind": kind.value}
            return "call_started", call | ({"namespace": namespace} if namespace is not None else {})
        case ArgumentsDelta(index, fragment):
            return "call_arguments", {"index": index, "arguments": fragment}
        case CallEnded(index, whole):
            return "call_ended", {"index": index, "whole": whole}
        case _:
            return None


def _provisional(event: TurnEvent) -> bytes:
    told = _told(event)
    return _frame(told[0], {**told[1], "provisional": True}) if told is not None else b""


def _ended(end: TurnEnded) -> dict[str, Any]:
    return {
        "state": end.state.value,
        "finish_reason": end.finish_reason.value if end.finish_reason is not None else None,
        "error": end.error,
        "stop": end.stop,
        "usage": usage_json(end.usage),
        "timings": timings_json(end.timings),
    }


def _frame(event: str, data: dict[str, Any], event_id: str | None = None) -> bytes:
    name = f"id: {event_id}\n" if event_id is not None else ""
    return f"{name}event: {event}\ndata: {to_json(data)}\n\n".encode()
