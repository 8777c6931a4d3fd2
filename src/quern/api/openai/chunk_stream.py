"""The answers of several turns as one stream of chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from quern.api.shared.error_styles import OPENAI_ERRORS
from quern.api.shared.merging import merged
from quern.api.shared.sse import DONE, EventStreamResponse, frame
from quern.turns.events import TurnEnded, TurnEvent
from quern.turns.turn import Turn
from quern.types import TurnState, Usage

CountUsage = Callable[[list[Usage]], dict[str, Any]]


class Chunks(Protocol):
    """One turn as members of the chunks' `choices`."""

    def silence(self) -> dict[str, Any]:
        """A chunk that adds nothing."""
        ...

    def begin(self) -> dict[str, Any] | None:
        """The first chunk, if there is one before the turn writes."""
        ...

    def take(self, event: TurnEvent) -> list[dict[str, Any]]:
        """What an event adds."""
        ...


def chunk_stream(
    turns: Sequence[Turn], choices: Sequence[Chunks], heading: Mapping[str, Any], count: CountUsage | None
) -> EventStreamResponse:
    """Chunks as they come, one with the usage where `count` counts it, and the end.

    An error is the last frame, without the end.
    """
    shared = {**heading, **({"usage": None} if count is not None else {})}

    def keep_alive() -> bytes:
        return frame({**shared, "choices": [choices[0].silence()]})

    return EventStreamResponse(_frames(turns, choices, shared, count), turns, keep_alive=keep_alive)


async def _frames(
    turns: Sequence[Turn], choices: Sequence[Chunks], shared: Mapping[str, Any], count: CountUsage | None
) -> AsyncGenerator[bytes]:
    for choice in choices:
        first = choice.begin()
        if first is not None:
            yield frame({**shared, "choices": [first]})
    ends: dict[int, TurnEnded] = {}
    async with aclosing(merged([turn.log for turn in turns])) as events:
        async for index, event in events:
            for chunk in choices[index].take(event):
                yield frame({**shared, "choices": [chunk]})
            if isinstance(event, TurnEnded):
                ends[index] = event
                if event.state is not TurnState.COMPLETED:
                    yield frame(OPENAI_ERRORS.stream_error(event.error or event.state))
                    return
    if count is not None:
        yield frame({**shared, "choices": [], "usage": count([ends[index].usage for index in sorted(ends)])})
    yield DONE
