"""A turn as Ollama's answer, whole or as lines of JSON. Pure: events in, JSON out.

Source of the shapes: Ollama's API documentation. Durations are in nanoseconds.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from quern.api.ollama.errors import OLLAMA_ERRORS
from quern.api.shared.sse import StreamEncoder, to_json
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
from quern.turns.answer import Answer
from quern.types import FinishReason, TurnState

Json = dict[str, Any]


class AnswerLines(StreamEncoder, ABC):
    """A turn as lines, one for each event. `model`: the name that the answer tells."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._call = CallStarted(0, "", "")
        self._arguments: list[str] = []

    @abstractmethod
    def piece(self, text: str, calls: Sequence[Json] = ()) -> Json:
        """The members that hold a piece of the answer."""

    def encode(self, index: int, event: TurnEvent) -> bytes:  # noqa: ARG002 (there is one turn)
        """The lines of an event; after a turn that did not complete, the error."""
        match event:
            case TextLogprobs(tokens):
                return self._line({**self.piece(""), "logprobs": [_token(token) for token in tokens]})
            case TextDelta(text):
                return self._line(self.piece(text))
            case CallStarted():
                self._call, self._arguments = event, []
            case ArgumentsDelta(_, fragment):
                self._arguments.append(fragment)
            case CallEnded(whole=True):
                return self._line(self.piece("", [_call(self._call.name, "".join(self._arguments))]))
            case TurnEnded(state=TurnState.COMPLETED):
                return self._line(self.piece("") | end_members(event))
            case TurnEnded(state, error=error):
                return _line(OLLAMA_ERRORS.stream_error(error or state))
            case _:
                pass
        return b""

    def keep_alive(self) -> bytes:
        """A line that adds nothing."""
        return self._line(self.piece(""))

    def whole(self, events: Sequence[TurnEvent], end: TurnEnded) -> Json:
        """The answer in one piece."""
        answer = Answer(events)
        tokens = [token for event in events if isinstance(event, TextLogprobs) for token in event.tokens]
        return {
            **self._heading(),
            **self.piece(answer.text, [_call(call.name, call.arguments) for call in answer.calls]),
            **({"logprobs": [_token(token) for token in tokens]} if tokens else {}),
            **end_members(end),
        }

    def nothing(self, reason: str) -> Json:
        """The answer to a request without a prompt. `reason`: `load` or `unload`."""
        return {**self._heading(), **self.piece(""), "done": True, "done_reason": reason}

    def _heading(self) -> Json:
        return {"model": self._model, "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z")}

    def _line(self, members: Json) -> bytes:
        return _line({**self._heading(), "done": False, **members})


class ChatLines(AnswerLines):
    """Answers of `/api/chat`."""

    def piece(self, text: str, calls: Sequence[Json] = ()) -> Json:
        """A message."""
        return {"message": {"role": "assistant", "content": text, **({"tool_calls": list(calls)} if calls else {})}}


class GenerateLines(AnswerLines):
    """Answers of `/api/generate`, which calls no tools."""

    def piece(self, text: str, calls: Sequence[Json] = ()) -> Json:  # noqa: ARG002 (there are none)
        """A text."""
        return {"response": text}


def end_members(end: TurnEnded) -> Json:
    """The members of a last line: why it ended, counts and durations."""
    timings, usage = end.timings, end.usage
    return {
        "done": True,
        "done_reason": "length" if end.finish_reason is FinishReason.LENGTH else "stop",
        "total_duration": _nanoseconds(timings.queued_ms + timings.prefill_ms + timings.decode_ms),
        "load_duration": 0,
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": _nanoseconds(timings.prefill_ms),
        "eval_count": usage.completion_tokens,
        "eval_duration": _nanoseconds(timings.decode_ms),
    }


def _nanoseconds(milliseconds: float) -> int:
    return round(milliseconds * 1e6)


def _call(name: str, arguments: str) -> Json:
    return {"function": {"name": name, "arguments": json.loads(arguments)}}


def _token(token: TokenLogprob) -> Json:
    top = {"top_logprobs": [_token(other) for other in token.top]} if token.top else {}
    text = token.token.decode(errors="replace")
    return {"token": text, "logprob": token.logprob, "bytes": list(token.token), **top}


def _line(members: Json) -> bytes:
    return to_json(members).encode() + b"\n"
