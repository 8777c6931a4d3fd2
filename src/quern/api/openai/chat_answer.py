"""A turn as a choice of a chat completion, whole or in chunks. Pure: events in, JSON out.

Source of the shapes: "The chat completion object" and "The chat completion chunk object" in OpenAI's API reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from quern.events import ArgumentsDelta, CallStarted, TextDelta, TextLogprobs, TokenLogprob, TurnEnded, TurnEvent
from quern.turns.answer import Answer, OneText
from quern.types import ToolCall, Usage


class ChoiceChunks:
    """The chunks of one choice, each a member of a chunk's `choices`."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._logprobs: list[dict[str, Any]] = []
        self._content = OneText()

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
            case CallStarted(index, call_id, name):
                self._content.take(event)
                function = {"name": name, "arguments": ""}
                return [self._call({"index": index, "id": call_id, "type": "function", "function": function})]
            case ArgumentsDelta(index, fragment):
                return [self._call({"index": index, "function": {"arguments": fragment}})]
            case TurnEnded(finish_reason=reason) if reason is not None:
                return [self._chunk({}, reason)]
            case _:
                return []

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        return self._chunk({"tool_calls": [call]})

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        tokens, self._logprobs = self._logprobs, []
        logprobs = {"content": tokens, "refusal": None} if tokens else None
        return {"index": self._index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def whole_choice(index: int, events: Sequence[TurnEvent], end: TurnEnded, *, with_logprobs: bool) -> dict[str, Any]:
    """One choice of an answer in one piece; `with_logprobs`: with its tokens' probabilities."""
    answer = Answer(events)
    calls = answer.calls
    message: dict[str, Any] = {"role": "assistant", "content": answer.text if answer.text or not calls else None}
    message["refusal"] = None
    if calls:
        message["tool_calls"] = [_call_json(call) for call in calls]
    tokens = [token for event in events if isinstance(event, TextLogprobs) for token in event.tokens]
    logprobs = {"content": [token_json(token) for token in tokens], "refusal": None} if with_logprobs else None
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": end.finish_reason}


def token_json(token: TokenLogprob) -> dict[str, Any]:
    """A token with its probability and the likeliest ones'."""
    return {**_token(token), "top_logprobs": [_token(other) for other in token.top]}


def _token(token: TokenLogprob) -> dict[str, Any]:
    text = token.token.decode(errors="replace")
    return {"token": text, "logprob": token.logprob, "bytes": list(token.token)}


def _call_json(call: ToolCall) -> dict[str, Any]:
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
