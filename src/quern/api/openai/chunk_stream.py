"""The answers of several turns as one stream of chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from quern.api.shared.error_styles import OPENAI_ERRORS
from quern.api.shared.sse import DONE, EventStreamResponse, StreamEncoder, frame, to_json
from quern.events import TurnEnded, TurnEvent
from quern.turns.turn import Turn
from quern.types import TurnState, Usage

TAIL = b"]}\n\n"

CountUsage = Callable[[list[Usage]], dict[str, Any]]


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
    """Chunks as they come, one with the usage where `count` counts it, and the end.

    An error is the last frame, without the end.
    """

    def __init__(self, choices: Sequence[Chunks], heading: Mapping[str, Any], count: CountUsage | None) -> None:
        self._choices = choices
        self._shared = {**heading, **({"usage": None} if count is not None else {})}
        # Thousands of chunks a second differ in one member: the rest is written once.
        self._head = frame(self._shared).removesuffix(b"}\n\n") + b',"choices":['
        self._count = count
        self._ends: dict[int, TurnEnded] = {}

    def begin(self) -> bytes:
        """The first chunks."""
        return b"".join(self._frame(first) for choice in self._choices if (first := choice.begin()) is not None)

    def encode(self, index: int, event: TurnEvent) -> bytes:
        """The chunks of an event; after a turn that did not complete, the error."""
        if self.broken_off:
            return b""
        frames = [self._head + to_json(chunk).encode() + TAIL for chunk in self._choices[index].take(event)]
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
        if self._count is None:
            return DONE
        usage = self._count([self._ends[index].usage for index in sorted(self._ends)])
        return frame({**self._shared, "choices": [], "usage": usage}) + DONE

    def _frame(self, chunk: dict[str, Any]) -> bytes:
        return self._head + to_json(chunk).encode() + TAIL


def chunk_stream(
    turns: Sequence[Turn], choices: Sequence[Chunks], heading: Mapping[str, Any], count: CountUsage | None
) -> EventStreamResponse:
    """The turns as a stream of chunks."""
    return EventStreamResponse(ChunkEncoder(choices, heading, count), [turn.log for turn in turns], turns)
