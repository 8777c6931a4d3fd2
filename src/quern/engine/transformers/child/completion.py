"""`POST /v1/completions` over token ids, as far as Quern asks: a request's values, and the pieces of its answer.

The fields are vLLM's (its `CompletionRequest` with the sampling parameters), and so is the stream; a prompt's progress
is told as llama-server does it (`return_progress`, `prompt_progress`). What isn't offered is refused by name. Texts are
empty: an answer is its `token_ids`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

IGNORED = frozenset(
    {
        "model",
        "priority",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "skip_special_tokens",
        "user",
    }
)
"""Fields that change nothing here: who asks decides whose turn it is."""


class Refused(Exception):
    """A request that can't be served; `str()` is a sentence."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What one request asks for; the sampling values mean what they mean in Quern's `SamplingParams`.

    `prompt`: token ids. `stop_token_ids`: the answer ends with any of them, and has it as its last id. `grammar`: Lark
    in llguidance's notation; empty for none. `cache_salt`: with whom its prompt's prefix is shared.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: Mapping[int, float] | None = None
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    logprobs: int | None = None
    grammar: str = ""
    cache_salt: str = ""
    return_progress: bool = False
    include_usage: bool = False

    @property
    def greedy(self) -> bool:
        """Whether only the likeliest token can be drawn."""
        return self.temperature <= 0 or self.top_p <= 0


def read_completion(body: bytes, *, vocabulary_size: int, context_length: int) -> Completion:
    """A request's body. Raises Refused with a sentence."""
    try:
        given: Any = json.loads(body)
    except ValueError:
        raise Refused("The body is not JSON.") from None
    if not isinstance(given, dict):
        raise Refused("The body is not a JSON object.")
    fields = _Fields(cast("dict[str, Any]", given))
    prompt = fields.ids("prompt", vocabulary_size)
    completion = Completion(
        prompt=prompt,
        max_tokens=fields.integer("max_tokens", 16, least=1),
        temperature=fields.number("temperature", 1.0, least=0),
        top_p=fields.number("top_p", 1.0, least=0, most=1),
        top_k=max(fields.integer("top_k", 0, least=-1), 0),
        min_p=fields.number("min_p", 0.0, least=0, most=1),
        repetition_penalty=fields.number("repetition_penalty", 1.0, least=1e-3),
        presence_penalty=fields.number("presence_penalty", 0.0, least=-2, most=2),
        frequency_penalty=fields.number("frequency_penalty", 0.0, least=-2, most=2),
        seed=fields.integer_or_none("seed"),
        logit_bias=fields.biases(vocabulary_size),
        stop_token_ids=frozenset(fields.ids("stop_token_ids", vocabulary_size, least=0)),
        ignore_eos=fields.flag("ignore_eos"),
        logprobs=fields.integer_or_none("logprobs"),
        grammar=fields.grammar(),
        cache_salt=fields.text("cache_salt"),
        return_progress=fields.flag("return_progress"),
        include_usage=fields.include_usage(),
    )
    fields.refuse_others()
    if len(prompt) + completion.max_tokens > context_length:
        raise Refused(
            f"The prompt has {len(prompt)} tokens and max_tokens is {completion.max_tokens}; together they may be "
            f"{context_length} at most."
        )
    return completion


class _Fields:
    """A body's fields, each taken out as it is read."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._left = {name: value for name, value in given.items() if value is not None and name not in IGNORED}

    def ids(self, name: str, vocabulary_size: int, least: int = 1) -> tuple[int, ...]:
        value = self._left.pop(name, [])
        if not isinstance(value, list) or len(cast("list[Any]", value)) < least:
            raise Refused(f"{name} is not a list of token ids{' with at least one' if least else ''}.")
        ids = cast("list[Any]", value)
        for token in ids:
            if type(token) is not int or not 0 <= token < vocabulary_size:
                raise Refused(f"{name} has {token!r} in it, and a token's id is from 0 to {vocabulary_size - 1}.")
        return tuple(ids)

    def integer(self, name: str, default: int, *, least: int) -> int:
        value = self._left.pop(name, default)
        if type(value) is not int or value < least:
            raise Refused(f"{name} is {value!r}, and it is an integer from {least} on.")
        return value

    def integer_or_none(self, name: str) -> int | None:
        value = self._left.pop(name, None)
        if value is not None and type(value) is not int:
            raise Refused(f"{name} is {value!r}, and it is an integer.")
        return value

    def number(self, name: str, default: float, *, least: float, most: float = math.inf) -> float:
        value = self._left.pop(name, default)
        if type(value) not in {int, float} or not least <= value <= most or math.isinf(value):
            raise Refused(f"{name} is {value!r}, and it is a number from {least} to {most}.")
        return float(value)

    def flag(self, name: str) -> bool:
        value = self._left.pop(name, False)
        if not isinstance(value, bool):
            raise Refused(f"{name} is {value!r}, and it is true or false.")
        return value

    def text(self, name: str) -> str:
        value = self._left.pop(name, "")
        if not isinstance(value, str):
            raise Refused(f"{name} is not a text.")
        return value

    def biases(self, vocabulary_size: int) -> Mapping[int, float] | None:
        """By token id; JSON has them as texts."""
        value = self._left.pop("logit_bias", None)
        if value is None:
            return None
        try:
            biases = {int(token): float(bias) for token, bias in value.items()}
        except (AttributeError, TypeError, ValueError):
            raise Refused("logit_bias is not an object of numbers by token id.") from None
        outside = [token for token in biases if not 0 <= token < vocabulary_size]
        if outside:
            raise Refused(f"logit_bias names {outside[0]}, and a token's id is from 0 to {vocabulary_size - 1}.")
        return biases

    def grammar(self) -> str:
        value = self._left.pop("structured_outputs", None)
        if value is None:
            return ""
        if not isinstance(value, dict) or list(cast("dict[str, Any]", value)) != ["grammar"]:
            raise Refused("structured_outputs has to be an object with the field grammar, in Lark.")
        grammar = cast("dict[str, Any]", value)["grammar"]
        if not isinstance(grammar, str) or not grammar:
            raise Refused("structured_outputs.grammar is not a text.")
        return grammar

    def include_usage(self) -> bool:
        value = self._left.pop("stream_options", None)
        return isinstance(value, dict) and bool(cast("dict[str, Any]", value).get("include_usage"))

    def refuse_others(self) -> None:
        if self._left.pop("stream", None) is not True:
            raise Refused("stream is not true, and answers are streamed here only.")
        if self._left.pop("n", 1) != 1:
            raise Refused("n is not 1, and a request has one answer here.")
        if self._left:
            raise Refused(f"{', '.join(sorted(self._left))}: not known here.")


@dataclass(frozen=True, slots=True)
class Token:
    """One that was drawn. `logprob` is before temperature and truncation, as are those of the likeliest in `top`."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How many of a prompt's tokens are done, `cached` of them without being computed."""

    done: int
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of an answer. `stop`: else it is the limit; `stop_reason`: the id of `stop_token_ids` that ended it.
    `cached`: so many of the prompt's tokens were not computed.
    """

    stop: bool
    stop_reason: int | None = None
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """An answer is lost; `why` is a sentence."""

    why: str


Event = Token | Progress | Ended | Failed


class Chunks:
    """The stream of one answer, as events of `text/event-stream`."""

    def __init__(self, completion: Completion, answer_id: str, model: str) -> None:
        self._completion = completion
        self._base = {"id": answer_id, "object": "text_completion", "created": int(time.time()), "model": model}
        self._tokens = 0

    def of(self, events: Sequence[Event]) -> bytes:
        """What is to be sent of events that came together; the tokens of one sending are one chunk."""
        parts = [self._progress(event) for event in events if isinstance(event, Progress)][-1:]
        tokens = [event for event in events if isinstance(event, Token)]
        ended = next((event for event in events if isinstance(event, Ended)), None)
        failed = next((event for event in events if isinstance(event, Failed)), None)
        if tokens or ended is not None:
            parts.append(self._choice(tokens, ended))
        if failed is not None:
            parts.append(_sse({"error": {"message": failed.why, "type": "InternalServerError", "code": 500}}))
        if ended is not None and self._completion.include_usage:
            parts.append(self._usage(ended.cached))
        if ended is not None or failed is not None:
            parts.append(b"data: [DONE]\n\n")
        return b"".join(parts)

    def _choice(self, tokens: Sequence[Token], ended: Ended | None) -> bytes:
        self._tokens += len(tokens)
        choice = {
            "index": 0,
            "text": "",
            "token_ids": [token.id for token in tokens],
            "logprobs": self._logprobs(tokens),
            "finish_reason": None if ended is None else "stop" if ended.stop else "length",
            "stop_reason": None if ended is None else ended.stop_reason,
        }
        return _sse({**self._base, "choices": [choice]})

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self._completion.logprobs is None:
            return None
        return {
            "text_offset": [0] * len(tokens),
            "tokens": [_name(token.id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                {_name(one): value for one, value in ((token.id, token.logprob), *token.top)} for token in tokens
            ],
        }

    def _progress(self, progress: Progress) -> bytes:
        if not self._completion.return_progress:
            return b""
        told = {"total": len(self._completion.prompt), "cache": progress.cached, "processed": progress.done}
        return _sse({**self._base, "choices": [], "prompt_progress": told})

    def _usage(self, cached: int) -> bytes:
        prompt = len(self._completion.prompt)
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": self._tokens,
            "total_tokens": prompt + self._tokens,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        return _sse({**self._base, "choices": [], "usage": usage})


def _name(token: int) -> str:
    return f"token_id:{token}"


def _sse(value: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
