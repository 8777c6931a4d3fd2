"""Reading llama-server's answer to a streamed `/completion`: bytes in, events out; no I/O.

Each event is a line `data: {json}`. Of a token that ends inside a UTF-8 character llama-server says nothing; with the
token that completes the character comes the text of all of them, but only the last id. `tokens_predicted` tells how
many there were, and the text gives the ids back. Their probabilities nobody tells: `completion_probabilities` has one
entry, the last token's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from quern.engine.base import Logprob
from quern.errors import EngineFailed
from quern.types import FinishReason

PREFIX = b"data: "


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` prompt tokens are in the cache, `cached` of them from before; `ms` since the start."""

    total: int
    cached: int
    done: int
    ms: float


@dataclass(frozen=True, slots=True)
class Generated:
    """A token and its text. `missing` ids before it were not told; `text` is the text of them all.

    `text` is empty for a token without text of its own, such as the one that ends a turn. `logprob`: the token's, where
    it was asked for.
    """

    id: int
    text: str
    missing: int
    logprob: Logprob | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The end: `predicted` tokens, an end token among them if `end_of_text`. Times are in milliseconds."""

    end_of_text: bool
    predicted: int
    cached: int
    prefill_ms: float
    decode_ms: float
    drafts_accepted: int


Part = Progress | Generated | Ended


class CompletionReader:
    """Feed it the body's chunks as they come; it returns what they complete."""

    def __init__(self) -> None:
        self._partial_line = b""
        self._predicted = 0

    def feed(self, chunk: bytes) -> list[Part]:
        """Raises EngineFailed where the server reports an error."""
        *lines, self._partial_line = (self._partial_line + chunk).split(b"\n")
        return [self._read(json.loads(line[len(PREFIX) :])) for line in lines if line.startswith(PREFIX)]

    def _read(self, event: dict[str, Any]) -> Part:
        if "error" in event:
            raise EngineFailed(explain(event))
        if event.get("stop"):
            return _ended(event)
        if "prompt_progress" in event:
            progress = event["prompt_progress"]
            return Progress(progress["total"], progress["cache"], progress["processed"], progress["time_ms"])
        before, self._predicted = self._predicted, event["tokens_predicted"]
        missing = self._predicted - before - 1
        return Generated(event["tokens"][-1], event["content"], missing, _logprob(event))


class EndFilter:
    """Holds back what may be an end token until it is known to be none.

    llama-server streams the model's end-of-turn token like any other before it says that it ended there. Such a token
    has no text, so only tokens without text wait, until the next event.
    """

    def __init__(self, stop_token_ids: frozenset[int]) -> None:
        self._stop_token_ids = stop_token_ids
        self._held: tuple[int, ...] = ()
        self.stopped = False

    def push(self, ids: tuple[int, ...], text: str) -> tuple[int, ...]:
        """The ids that may be shown now; `stopped` is true from the first stop id on."""
        ready = self._until_stop(self._held)
        self._held = ()
        if self.stopped:
            return ready
        if not text:
            self._held = ids
            return ready
        return ready + self._until_stop(ids)

    def finish(self, *, end_of_text: bool) -> tuple[tuple[int, ...], FinishReason]:
        """The ids that were still held back, and why the generation ended."""
        last = () if end_of_text else self._until_stop(self._held)
        return last, FinishReason.STOP if end_of_text or self.stopped else FinishReason.LENGTH

    def _until_stop(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        for position, token in enumerate(ids):
            if token in self._stop_token_ids:
                self.stopped = True
                return ids[:position]
        return ids


def explain(error: dict[str, Any]) -> str:
    """A sentence for an error body of llama-server's: `{"error": {"message": ...}}`."""
    message = str(error["error"]["message"]).rstrip(".")
    if "Context size has been exceeded" in message:
        return (
            "The inference server ran out of KV cache and dropped every running answer. Lower engine.kv_tokens to the "
            "context size that the server was started with."
        )
    return f"The inference server refused or dropped this request: {message}."


def _logprob(event: dict[str, Any]) -> Logprob | None:
    entries = event.get("completion_probabilities")
    if not entries:
        return None
    drawn = entries[-1]
    return Logprob(drawn["logprob"], tuple((likely["id"], likely["logprob"]) for likely in drawn["top_logprobs"]))


def _ended(event: dict[str, Any]) -> Ended:
    timings = event["timings"]
    return Ended(
        end_of_text=event["stop_type"] == "eos",
        predicted=event["tokens_predicted"],
        cached=timings["cache_n"],
        prefill_ms=timings["prompt_ms"],
        decode_ms=timings["predicted_ms"],
        drafts_accepted=timings.get("draft_n_accepted", 0),
    )
