"""A turn as a choice of a completion, whole or in chunks. Pure: events in, JSON out.

Source of the shapes: "The completion object" in OpenAI's API reference (legacy). Tokens that are no whole characters
are written `bytes:\\xe4\\xbd`, as OpenAI writes them.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quern.api.openai.chat_answer import completion_usage
from quern.events import TextDelta, TextLogprobs, TokenLogprob, TurnEnded, TurnEvent
from quern.turns.answer import Answer
from quern.types import Usage


@dataclass(frozen=True, slots=True)
class Heading:
    """What is known of a choice before it is written. `prompt`: the prompt's text; `echo`: it is part of the answer.

    `logprobs`: of how many likeliest tokens probabilities are wanted, None for none at all.
    """

    index: int
    prompt: str
    echo: bool = False
    logprobs: int | None = None

    @property
    def echoed(self) -> str:
        """What the answer begins with."""
        return self.prompt if self.echo else ""


class TextChunks:
    """The chunks of one choice, each a member of a chunk's `choices`."""

    def __init__(self, heading: Heading) -> None:
        self._heading = heading
        self._table = LogprobsTable(heading)
        self._tokens: list[TokenLogprob] = []

    def keep_alive(self) -> dict[str, Any]:
        """A chunk that adds nothing."""
        return {"text": "", "index": self._heading.index, "logprobs": None, "finish_reason": None}

    def begin(self) -> dict[str, Any] | None:
        """The first chunk, where the prompt is echoed."""
        return self._chunk(self._heading.echoed) if self._heading.echoed else None

    def take(self, event: TurnEvent) -> list[dict[str, Any]]:
        """What an event adds. A turn that did not complete ends without a last chunk: the error is the caller's."""
        match event:
            case TextLogprobs(tokens):
                self._tokens += tokens
                return []
            case TextDelta(text):
                return [self._chunk(text)]
            case TurnEnded(finish_reason=reason) if reason is not None:
                return [self._chunk("", reason)]
            case _:
                return []

    def _chunk(self, text: str, finish_reason: str | None = None) -> dict[str, Any]:
        tokens, self._tokens = self._tokens, []
        logprobs = self._table.rows(tokens) if tokens else None
        return {"text": text, "index": self._heading.index, "logprobs": logprobs, "finish_reason": finish_reason}


class LogprobsTable:
    """Tokens' probabilities by columns. Offsets count characters from the beginning of the prompt."""

    def __init__(self, heading: Heading) -> None:
        self._offset = len(heading.prompt)
        self._top_count = heading.logprobs or 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def rows(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The columns for the tokens that come next. A token that goes on with a character has that one's offset."""
        offsets: list[int] = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(token.token))
        return {
            "tokens": [_text(token) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [_likeliest(token) for token in tokens] if self._top_count else None,
            "text_offset": offsets,
        }


def whole_choice(heading: Heading, events: Sequence[TurnEvent], end: TurnEnded) -> dict[str, Any]:
    """One choice of an answer in one piece."""
    tokens = [token for event in events if isinstance(event, TextLogprobs) for token in event.tokens]
    return {
        "text": heading.echoed + Answer(events).text,
        "index": heading.index,
        "logprobs": None if heading.logprobs is None else LogprobsTable(heading).rows(tokens),
        "finish_reason": end.finish_reason,
    }


def completions_usage(usages: Sequence[Usage], choices: int) -> dict[str, Any]:
    """Of `choices` answers to each prompt, in order: every prompt counts once."""
    firsts = usages[::choices]
    return completion_usage(
        [
            Usage(
                sum(usage.prompt_tokens for usage in firsts),
                sum(usage.cached_tokens for usage in firsts),
                sum(usage.completion_tokens for usage in usages),
            )
        ]
    )


def _likeliest(token: TokenLogprob) -> dict[str, float]:
    """The likeliest tokens, and the one that was drawn."""
    logprobs: dict[str, float] = {}
    for other in (*token.top, token):
        logprobs.setdefault(_text(other), other.logprob)
    return logprobs


def _text(token: TokenLogprob) -> str:
    try:
        return token.token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.token)
