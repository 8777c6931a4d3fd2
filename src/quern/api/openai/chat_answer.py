"""A turn as a choice of a chat completion, whole or in chunks. Pure: events in, JSON out.

Source of the shapes: "The chat completion object" and "The chat completion chunk object" in OpenAI's API reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from quern.api.openai.tool_items import CustomInput, custom_input
from quern.api.shared.custom_tools import CUSTOM
from quern.events import (
    ArgumentsDelta,
    CallEnded,
    CallStarted,
    TextDelta,
    TextLogprobs,
    TokenLogprob,
    TurnEnded,
    TurnEvent,
)
from quern.turns.answer import Answer, OneText
from quern.types import FinishReason, ToolCall, ToolKind, Usage


class ChoiceChunks:
    """The chunks of one choice, each a member of a chunk's `choices`. `legacy`: it calls a function, not tools."""

    def __init__(self, index: int, *, legacy: bool = False) -> None:
        self._index = index
        self._legacy = legacy
        self._logprobs: list[dict[str, Any]] = []
        self._content = OneText()
        self._inputs: dict[int, CustomInput] = {}

    def keep_alive(self) -> dict[str, Any]:
        """A chunk that adds nothing."""
        return {"index": self._index, "delta": {"content": ""}, "logprobs": None, "finish_reason": None}

    def begin(self) -> dict[str, Any]:
        """The first chunk."""
        return self._chunk({"role": "assistant", "content": ""})

    def take(self, event: TurnEvent) -> list[dict[str, Any]]:
        """What an event adds. A turn that did not complete ends without a last chunk: the error is the caller's."""
        match event:
            case TextLogprobs(tokens):
                self._logprobs += [token_json(token) for token in tokens]
                return []
            case TextDelta():
                return [self._chunk({"content": self._content.take(event)})]
            case CallStarted() | ArgumentsDelta() | CallEnded():
                self._content.take(event)
                return [self._chunk(delta) for delta in self._call(event)]
            case TurnEnded(finish_reason=reason) if reason is not None:
                return [self._chunk({}, _finish_reason(reason, legacy=self._legacy))]
            case _:
                return []

    def _call(self, event: CallStarted | ArgumentsDelta | CallEnded) -> list[dict[str, Any]]:
        """What an event adds to a call, as deltas."""
        custom = self._inputs.get(event.index)
        match event:
            case CallStarted(index, call_id, name, ToolKind.CUSTOM):
                self._inputs[index] = CustomInput()
                return _call_delta(index, CUSTOM, {"name": name, "input": ""}, call_id)
            case CallStarted(index, call_id, name):
                return self._function(index, {"name": name, "arguments": ""}, call_id)
            case ArgumentsDelta(index, fragment) if custom is not None:
                return _input_delta(index, custom.write(fragment))
            case ArgumentsDelta(index, fragment):
                return self._function(index, {"arguments": fragment})
            case CallEnded(index):
                return _input_delta(index, custom.rest()) if custom is not None else []

    def _function(self, index: int, members: dict[str, str], call_id: str | None = None) -> list[dict[str, Any]]:
        if not self._legacy:
            return _call_delta(index, "function", members, call_id)
        return [{"function_call": members}] if index == 0 else []

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        tokens, self._logprobs = self._logprobs, []
        logprobs = {"content": tokens, "refusal": None} if tokens else None
        return {"index": self._index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def _call_delta(index: int, kind: str, members: dict[str, str], call_id: str | None = None) -> list[dict[str, Any]]:
    """More of a call; with its id, its beginning."""
    heading = {} if call_id is None else {"id": call_id, "type": kind}
    return [{"tool_calls": [{"index": index, **heading, kind: members}]}]


def _input_delta(index: int, text: str) -> list[dict[str, Any]]:
    """More of a custom tool's text. OpenAI's reference has no custom calls in chunks; this is what its server sends."""
    return _call_delta(index, CUSTOM, {"input": text}) if text else []


def whole_choice(
    index: int, events: Sequence[TurnEvent], end: TurnEnded, *, with_logprobs: bool, legacy: bool = False
) -> dict[str, Any]:
    """One choice of an answer in one piece; `with_logprobs`: with its tokens' probabilities; `legacy`: it calls a
    function, not tools.
    """
    answer = Answer(events)
    calls = answer.calls
    message: dict[str, Any] = {"role": "assistant", "content": answer.text if answer.text or not calls else None}
    message["refusal"] = None
    if calls and legacy:
        message["function_call"] = {"name": calls[0].name, "arguments": calls[0].arguments}
    elif calls:
        message["tool_calls"] = [_call_json(call) for call in calls]
    tokens = [token for event in events if isinstance(event, TextLogprobs) for token in event.tokens]
    logprobs = {"content": [token_json(token) for token in tokens], "refusal": None} if with_logprobs else None
    reason = _finish_reason(end.finish_reason, legacy=legacy)
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def token_json(token: TokenLogprob) -> dict[str, Any]:
    """A token with its probability and the likeliest ones'."""
    return {**_token(token), "top_logprobs": [_token(other) for other in token.top]}


def _token(token: TokenLogprob) -> dict[str, Any]:
    text = token.token.decode(errors="replace")
    return {"token": text, "logprob": token.logprob, "bytes": list(token.token)}


def _finish_reason(reason: FinishReason | None, *, legacy: bool) -> str | None:
    return "function_call" if legacy and reason is FinishReason.TOOL_CALLS else reason


def _call_json(call: ToolCall) -> dict[str, Any]:
    if call.kind is ToolKind.CUSTOM:
        return {"id": call.id, "type": CUSTOM, CUSTOM: {"name": call.name, "input": custom_input(call.arguments)}}
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def completion_usage(usages: Iterable[Usage]) -> dict[str, Any]:
    """Of all choices of one prompt: the prompt counts once, its cached part as the first choice found it."""
    counted = list(usages)
    prompt = counted[0].prompt_tokens
    completion = sum(usage.completion_tokens for usage in counted)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": counted[0].cached_tokens},
    }
