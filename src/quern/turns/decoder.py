"""From token ids to a turn's events: whole characters up to a stop string, then prose and calls."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from quern.engine.base import Logprob
from quern.events import (
    AnswerEvent,
    ArgumentsDelta,
    CallEnded,
    CallStarted,
    TextDelta,
    TextLogprobs,
    TokenLogprob,
    TurnEvent,
)
from quern.prompt.incremental_text import IncrementalText
from quern.prompt.tools.protocols import AnswerParser
from quern.store.schema import storable
from quern.turns.loops import LoopEndingParser, RepeatedCall
from quern.types import Loop


@dataclass(frozen=True, slots=True)
class Decoded:
    """What some more token ids bring: `text` as the model wrote it, and the same as events."""

    text: str = ""
    events: Sequence[TurnEvent] = field(default_factory=list[TurnEvent])


class AnswerDecoder:
    """Decodes one answer. `logprobs`: where tokens' probabilities are wanted. `stored`: the text is made storable."""

    def __init__(
        self, text: IncrementalText, output: OutputParser, logprobs: AlignedLogprobs | None = None, *, stored: bool
    ) -> None:
        self._text = text
        self._logprobs = logprobs
        self._stored = stored
        self.output = output

    @property
    def stop(self) -> str | None:
        """The stop string that ended the answer, if one did."""
        return self._text.stopped_by

    @property
    def complete(self) -> bool:
        """Whether the answer is whole, whatever the model goes on to write."""
        return self._text.stopped or self.output.complete

    def decode(self, ids: Sequence[int], logprobs: Sequence[Logprob] | None = None, *, last: bool = False) -> Decoded:
        """Take the next ids; return what is now certain. After the `last` ones nothing is held back any more because it
        could begin a stop string.
        """
        text = self._text.push(ids)
        if last:
            text += self._text.finish()
        if self._stored:
            text = storable(text)
        events: list[TurnEvent] = list(self.output.push(text)) if text else []
        if self._logprobs is not None:
            self._logprobs.push(ids, logprobs)
            if tokens := self._logprobs.release(text):
                events.insert(0, TextLogprobs(tokens))
        return Decoded(text, events)


class OutputParser:
    """What the model writes, as events. Without a parser everything is text; with `single_call` the answer ends after
    its first call. A `repeated` call is not told.
    """

    def __init__(
        self, parser: AnswerParser | None, *, single_call: bool = False, repeated: RepeatedCall | None = None
    ) -> None:
        self._ending = LoopEndingParser(parser, repeated) if parser is not None and repeated is not None else None
        self._parser = self._ending or parser
        self._single_call = single_call
        self._arguments_begun = False
        self.calls_ended = 0
        self.cut_off = False
        """Whether a call is not whole: the end of the answer cut it off, or it can't be mended."""

    @property
    def repairs(self) -> int:
        """Slips of the model that were mended so far."""
        return self._parser.repairs if self._parser is not None else 0

    @property
    def complete(self) -> bool:
        """Whether the answer is whole, whatever the model goes on to write."""
        return self._single_call and self.calls_ended > 0

    @property
    def loop(self) -> Loop | None:
        """What the answer went on with, once it made the `repeated` call."""
        return self._ending.loop if self._ending is not None else None

    def push(self, text: str) -> Sequence[AnswerEvent]:
        """Take what comes next."""
        if self._parser is None:
            return [TextDelta(text)] if text else []
        return [] if self.complete else self._counted(_unclosed(self._parser.push(text)))

    def finish(self) -> Sequence[AnswerEvent]:
        """The end: what was held back. A call that it cuts off gets nothing that would make it look whole."""
        return [] if self._parser is None or self.complete else self._counted(self._cut(self._parser.finish()))

    def _counted(self, parsed: Iterable[AnswerEvent]) -> list[AnswerEvent]:
        events: list[AnswerEvent] = []
        for event in parsed:
            events.append(event)
            match event:
                case CallStarted():
                    self._arguments_begun = False
                case ArgumentsDelta():
                    self._arguments_begun = True
                case CallEnded(whole=whole):
                    self.calls_ended += 1
                    self.cut_off = self.cut_off or not whole
                case TextDelta():
                    continue
            if self.complete:
                break
        return events

    def _cut(self, parsed: Sequence[AnswerEvent]) -> Iterable[AnswerEvent]:
        """The last events, without what completes the arguments of a call that is cut off: many clients carry out
        whatever they can parse. What has no arguments yet gets a brace, as none at all are taken for an empty object.
        """
        cut = _not_whole(parsed)
        for event in parsed:
            if not isinstance(event, ArgumentsDelta) or event.index not in cut:
                yield event
            elif not self._arguments_begun:
                yield ArgumentsDelta(event.index, "{")


def _not_whole(parsed: Sequence[AnswerEvent]) -> set[int]:
    return {event.index for event in parsed if isinstance(event, CallEnded) and not event.whole}


def _unclosed(parsed: Sequence[AnswerEvent]) -> Iterable[AnswerEvent]:
    """The events, without the brace that closes the arguments of a call that is not whole; it comes with the end."""
    unclosed = _not_whole(parsed)
    for event in parsed:
        if isinstance(event, ArgumentsDelta) and event.index in unclosed:
            if fragment := event.fragment.removesuffix("}"):
                yield ArgumentsDelta(event.index, fragment)
        else:
            yield event


class AlignedLogprobs:
    """Holds probabilities back as long as the text of their tokens is held back."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._held: deque[tuple[int, TokenLogprob]] = deque()
        # Decodes as the text's own decoder does, so that both count the same characters, U+FFFD too.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pushed_characters = 0
        self._released_characters = 0

    def push(self, ids: Sequence[int], logprobs: Sequence[Logprob] | None) -> None:
        """Take what was drawn. Tokens without probabilities are left out, but their text counts."""
        for index, token_id in enumerate(ids):
            token = self._token_bytes(token_id)
            if logprobs is not None:
                self._held.append((self._pushed_characters, self._token_logprob(token, logprobs[index])))
            self._pushed_characters += len(self._decoder.decode(token))

    def release(self, text: str) -> tuple[TokenLogprob, ...]:
        """This text is out: the tokens that begin in it or before it."""
        self._released_characters += len(text)
        ready: list[TokenLogprob] = []
        while self._held and self._held[0][0] < self._released_characters:
            ready.append(self._held.popleft()[1])
        return tuple(ready)

    def _token_logprob(self, token: bytes, logprob: Logprob) -> TokenLogprob:
        top = tuple(TokenLogprob(self._token_bytes(other), value) for other, value in logprob.top)
        return TokenLogprob(token, logprob.value, top)
