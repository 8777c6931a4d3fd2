"""Reading the answer to a streamed `POST /v1/completions`: bytes in, what was generated out; no I/O.

Each event is a line `data: {json}`, the last one `data: [DONE]`. A chunk has the ids that are new (`token_ids`), and
their probabilities where they were asked for, with tokens written as `token_id:7`. The one that ends an answer is
among them. Counts come in a chunk of their own, without choices.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from quern.engine.base import Logprob
from quern.errors import EngineFailed, ServerLost
from quern.types import FinishReason

PREFIX = b"data:"
DONE = b"[DONE]"
TOKEN_ID = "token_id:"  # noqa: S105 (a prefix, no secret)
REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
NO_IDS = (
    "The inference server tells no token ids, so its answers can't be used. It has to be one that takes "
    "`return_token_ids`, as vLLM does from 0.10.2 on."
)


@dataclass(frozen=True, slots=True)
class Generated:
    """New ids, at least one. `logprobs`: theirs, where they were asked for."""

    ids: tuple[int, ...]
    logprobs: tuple[Logprob, ...] | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """Why no more is generated."""

    reason: FinishReason


@dataclass(frozen=True, slots=True)
class Counted:
    """Tokens of the prompt that came from the cache, where the server tells."""

    cached: int


@dataclass(frozen=True, slots=True)
class Computed:
    """So many tokens of the prompt are done, `cached` of them from the cache, where the server tells."""

    done: int
    cached: int


Part = Generated | Ended | Counted | Computed


ENGINE_DEAD = "EngineCore encountered an issue"
"""So vLLM answers everybody once the process that computes has died, until its server has ended as well."""
DIED = (
    "The process of the inference server that computes has died, so this answer was lost. Ask again once it is back, "
    "or go on with what there is."
)


class CompletionReader:
    """Feed it the body's chunks as they come; it returns what they complete.

    `end_ids`: those that end the answer, and are not a part of it. `top`: so many of the likeliest are wanted.
    """

    def __init__(self, end_ids: frozenset[int] = frozenset(), top: int = 0) -> None:
        self._end_ids = end_ids
        self._top = top
        self._partial_line = b""
        self.done = False

    def feed(self, chunk: bytes) -> Iterator[Part]:
        """Raises, after what came, EngineFailed where the server reports an error or does not speak this protocol, and
        ServerLost where it can't go on.
        """
        *lines, self._partial_line = (self._partial_line + chunk).split(b"\n")
        for line in lines:
            if line.startswith(PREFIX):
                data = line[len(PREFIX) :].strip()
                if data == DONE:
                    self.done = True
                else:
                    yield from self._read(data)

    def _read(self, data: bytes) -> list[Part]:
        try:
            event = json.loads(data)
            if "error" in event:
                raise failure(event)
            parts = [part for choice in event["choices"] for part in self._choice(choice)]
            return parts + _counted(event) + _computed(event)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            msg = f"The inference server answered with something that can't be read: {error!r}."
            raise EngineFailed(msg) from error

    def _choice(self, choice: dict[str, Any]) -> list[Part]:
        ids = choice.get("token_ids")
        if ids is None and (choice["text"] or choice.get("finish_reason") is None):
            raise EngineFailed(NO_IDS)
        told, reason = tuple[int, ...](ids or ()), choice.get("finish_reason")
        if reason is not None and reason not in REASONS:
            msg = f"The inference server dropped this answer ({reason}). Ask again."
            raise EngineFailed(msg)
        shown = told[:-1] if reason == "stop" and told and told[-1] in self._end_ids else told
        logprobs = _logprobs(choice.get("logprobs"), self._top)
        parts: list[Part] = []
        if shown:
            parts.append(Generated(shown, logprobs[: len(shown)] if logprobs is not None else None))
        if reason is not None:
            parts.append(Ended(REASONS[reason]))
        return parts


def failure(error: dict[str, Any]) -> EngineFailed:
    """What an error body means: `{"error": {"message": …}}`, or as older servers have it `{"message": …}`."""
    inner: Any = error.get("error", error)
    message = str(inner if isinstance(inner, str) else inner["message"]).rstrip(".")
    if ENGINE_DEAD in message:
        return ServerLost(DIED)
    return EngineFailed(f"The inference server refused or dropped this request: {message}.")


def _logprobs(told: dict[str, Any] | None, top: int) -> tuple[Logprob, ...] | None:
    """vLLM tells the drawn token beside the likeliest: those are the first of them all, best first."""
    if not told:
        return None
    likeliest = told.get("top_logprobs") or [None] * len(told["token_logprobs"])
    return tuple(
        Logprob(value, _best(others or {}, top))
        for value, others in zip(told["token_logprobs"], likeliest, strict=True)
    )


def _best(others: dict[str, float], top: int) -> tuple[tuple[int, float], ...]:
    ranked = sorted(others.items(), key=lambda entry: -entry[1])[:top]
    return tuple((int(name.removeprefix(TOKEN_ID)), value) for name, value in ranked)


def _counted(event: dict[str, Any]) -> list[Part]:
    usage: dict[str, Any] = event.get("usage") or {}
    details: dict[str, Any] = usage.get("prompt_tokens_details") or {}
    return [Counted(details.get("cached_tokens") or 0)] if details else []


def _computed(event: dict[str, Any]) -> list[Part]:
    progress: dict[str, Any] = event.get("prompt_progress") or {}
    return [Computed(progress["processed"], progress["cache"])] if progress else []
