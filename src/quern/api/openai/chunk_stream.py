"""The answers of several turns as one stream of chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from quern.api.shared.error_styles import OPENAI_ERRORS
from quern.api.shared.sampling_fields import StreamOptions
from quern.api.shared.sse import DONE, EventStreamResponse, StreamEncoder, frame, to_json
from quern.events import Prefill, TurnEnded, TurnEvent
from quern.turns.turn import Turn
from quern.types import TurnState, Usage

TAIL = b"]}\n\n"

CountUsage = Callable[[list[Usage]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class StreamedUsage:
    """That a stream tells its usage, counted by `count`: in a chunk at its end, and with `in_every_chunk` what it is so
    far (vLLM's `continuous_usage_stats`).
    """

    count: CountUsage
    in_every_chunk: bool


def usage_in_stream(options: StreamOptions | None, count: CountUsage) -> StreamedUsage | None:
    """What a request's options say of the usage; None for nothing."""
    if options is None or not options.include_usage:
        return None
    return StreamedUsage(count, options.continuous_usage_stats)


class Chunks(Protocol):
    """One turn as members of the chunks' `choices`."""

    def keep_alive(self) -> dict[str, Any]:
        """A chunk that adds nothing."""
        ...

    def begin(self) -> dict[str, Any] | None:
        """The first chunk, if there is one before the turn writes."""
        ...

    def take(self, event: TurnEvent) -> list[dict[str, Any]]:
        """What an event adds."""
        ...


class ChunkEncoder(StreamEncoder):
    """The turns' chunks as they come, one with the usage where that is wanted, and the end.

    An error is the last frame, without the end.
    """

    def __init__(
        self, turns: Sequence[Turn], choices: Sequence[Chunks], heading: Mapping[str, Any], usage: StreamedUsage | None
    ) -> None:
        self._turns = turns
        self._choices = choices
        self._usage = usage
        self._count_so_far = usage.count if usage is not None and usage.in_every_chunk else None
        self._shared = {**heading, **({"usage": None} if usage is not None and not usage.in_every_chunk else {})}
        # Thousands of chunks a second differ in one member: the rest is written once.
        self._head = frame(self._shared).removesuffix(b"}\n\n") + b',"choices":['
        self._cached = [0] * len(turns)
        self._ends: dict[int, TurnEnded] = {}

    def begin(self) -> bytes:
        """The first chunks."""
        return b"".join(self._frame(first) for choice in self._choices if (first := choice.begin()) is not None)

    def encode(self, index: int, event: TurnEvent) -> bytes:
        """The chunks of an event; after a turn that did not complete, the error."""
        if self.broken_off:
            return b""
        if isinstance(event, Prefill):
            self._cached[index] = event.cached
        frames = [self._frame(chunk) for chunk in self._choices[index].take(event)]
        if isinstance(event, TurnEnded):
            self._ends[index] = event
            if event.state is not TurnState.COMPLETED:
                self.broken_off = True
                frames.append(frame(OPENAI_ERRORS.stream_error(event.error or event.state)))
        return b"".join(frames)

    def keep_alive(self) -> bytes:
        """A chunk that adds nothing."""
        return self._frame(self._choices[0].keep_alive())

    def end(self) -> bytes:
        """The usage, where it was asked for, and the end."""
        if self._usage is None:
            return DONE
        usage = self._usage.count([self._ends[index].usage for index in sorted(self._ends)])
        return frame({**self._shared, "choices": [], "usage": usage}) + DONE

    def _frame(self, chunk: dict[str, Any]) -> bytes:
        tail = TAIL if self._count_so_far is None else self._tail_with_usage(self._count_so_far)
        return self._head + to_json(chunk).encode() + tail

    def _tail_with_usage(self, count: CountUsage) -> bytes:
        so_far = [
            Usage(turn.prompt_tokens, cached, turn.generated_tokens)
            for turn, cached in zip(self._turns, self._cached, strict=True)
        ]
        return b'],"usage":' + to_json(count(so_far)).encode() + b"}\n\n"


def chunk_stream(
    turns: Sequence[Turn], choices: Sequence[Chunks], heading: Mapping[str, Any], usage: StreamedUsage | None
) -> EventStreamResponse:
    """The turns as a stream of chunks."""
    return EventStreamResponse(ChunkEncoder(turns, choices, heading, usage), [turn.log for turn in turns], turns)
