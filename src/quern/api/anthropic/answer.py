"""A turn as a message, whole or as a stream's events. Pure: events in, JSON out.

Source of the shapes: "Create a Message" and "Streaming Messages" in Anthropic's API reference.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from quern.events import ArgumentsDelta, CallEnded, CallStarted, Prefill, TextDelta, TurnEnded, TurnEvent
from quern.turns.answer import Answer
from quern.types import FinishReason, Item, Message, ToolCall, ToolResult, TurnState, Usage

PING: dict[str, Any] = {"type": "ping"}
SILENCES_FOR_A_DELTA = 8
"""Of so many silences in a row the last is filled with a delta that is empty, not with a ping."""


class MessageEvents:
    """The events of one streamed message, in order; the member `type` is the event's name.

    `heading`: the members that name the message. `prompt_tokens`: the prompt's length. `fitted`: the answer has less
    room than was asked for, as there is no more.
    """

    def __init__(self, heading: dict[str, Any], prompt_tokens: int, *, fitted: bool) -> None:
        self._heading = heading
        self._prompt_tokens = prompt_tokens
        self._fitted = fitted
        self._begun = False
        self._index = -1
        self._open: str | None = None
        self._silences = 0

    def take(self, event: TurnEvent) -> list[dict[str, Any]]:
        """What an event adds. A turn that did not complete ends without more: the error is the caller's."""
        added: list[dict[str, Any]] = []
        match event:
            case Prefill(cached=cached):
                added = self._begin(cached)
            case TextDelta(text):
                opening = [] if self._open == "text" else self._begin_block({"type": "text", "text": ""})
                added = [*self._begin(), *opening, self._delta({"type": "text_delta", "text": text})]
            case CallStarted(_, call_id, name):
                call: dict[str, Any] = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
                added = [*self._begin(), *self._begin_block(call)]
            case ArgumentsDelta(_, fragment):
                added = [self._delta({"type": "input_json_delta", "partial_json": fragment})]
            case CallEnded():
                added = self._end_block()
            case TurnEnded(state=TurnState.COMPLETED):
                added = [*self._begin(), *self._end_block(), *self._end(event)]
            case _:
                pass
        if added:
            self._silences = 0
        return added

    def in_silence(self) -> list[dict[str, Any]]:
        """What says that the server is still there, and changes nothing of the message.

        Claude Code counts few pings (thirty in a row) or none, and gives a message up after five minutes without
        anything that it counts. So it gets the message's start, if that has to wait, and later empty deltas. As long as
        there is no block they are a text's: an answer that begins with a call then has an empty text before it.
        """
        self._silences += 1
        if not self._begun:
            return self._begin()
        if self._silences % SILENCES_FOR_A_DELTA or (self._open is None and self._index >= 0):
            return [PING]
        if self._open == "tool_use":
            return [self._delta({"type": "input_json_delta", "partial_json": ""})]
        opening = [] if self._open else self._begin_block({"type": "text", "text": ""})
        return [*opening, self._delta({"type": "text_delta", "text": ""})]

    def _begin(self, cached: int = 0) -> list[dict[str, Any]]:
        if self._begun:
            return []
        self._begun = True
        usage = message_usage(Usage(self._prompt_tokens, cached))
        empty: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None}
        return [{"type": "message_start", "message": {**self._heading, **empty, "usage": usage}}]

    def _begin_block(self, block: dict[str, Any]) -> list[dict[str, Any]]:
        ended = self._end_block()
        self._index += 1
        self._open = block["type"]
        start: dict[str, Any] = {"type": "content_block_start", "index": self._index, "content_block": block}
        return [*ended, start, PING] if self._index == 0 else [*ended, start]

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _end_block(self) -> list[dict[str, Any]]:
        if self._open is None:
            return []
        self._open = None
        return [{"type": "content_block_stop", "index": self._index}]

    def _end(self, end: TurnEnded) -> list[dict[str, Any]]:
        delta = stop_members(end, fitted=self._fitted)
        return [
            {"type": "message_delta", "delta": delta, "usage": message_usage(end.usage)},
            {"type": "message_stop"},
        ]


def unanswered(event: TurnEvent) -> TurnEvent | None:
    """What is told of an event where a prompt is only read: nothing of what the model said."""
    match event:
        case TurnEnded(state=TurnState.COMPLETED):
            usage = replace(event.usage, completion_tokens=0)
            return replace(event, finish_reason=FinishReason.LENGTH, usage=usage, stop=None)
        case Prefill() | TurnEnded():
            return event
        case _:
            return None


def message_heading(turn_id: str, model: str) -> dict[str, Any]:
    """The members that name a message."""
    return {"id": f"msg_{turn_id.replace('-', '')}", "type": "message", "role": "assistant", "model": model}


def whole_message(heading: dict[str, Any], events: Sequence[TurnEvent], *, fitted: bool) -> dict[str, Any]:
    """A message in one piece, from the events of a turn that completed."""
    end = next(event for event in events if isinstance(event, TurnEnded))
    content = [block for item in Answer(events).items() for block in _blocks(item)]
    return {**heading, "content": content, **stop_members(end, fitted=fitted), "usage": message_usage(end.usage)}


def stop_members(end: TurnEnded, *, fitted: bool) -> dict[str, Any]:
    """Why a message ended. Calls that are whole are to be answered, whatever came after them."""
    match end.finish_reason:
        case FinishReason.LENGTH:
            reason = "model_context_window_exceeded" if fitted and end.loop is None else "max_tokens"
        case FinishReason.TOOL_CALLS:
            reason = "tool_use"
        case _:
            reason = "end_turn" if end.stop is None else "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": end.stop if reason == "stop_sequence" else None}


def message_usage(usage: Usage) -> dict[str, Any]:
    """Token counts. Input is counted without what was found in the cache; what is put there costs nothing."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def _blocks(item: Item) -> list[dict[str, Any]]:
    match item:
        case Message(_, content):
            return [{"type": "text", "text": content}] if content else []
        case ToolCall(call_id, name, arguments):
            return [{"type": "tool_use", "id": call_id, "name": name, "input": json.loads(arguments)}]
        case ToolResult():
            return []
