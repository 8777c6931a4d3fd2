"""Turns as answers in llama.cpp's shape, whole or streamed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from quern.api.llamacpp.filling import Filling
from quern.api.llamacpp.infill_answer import final_answer, partial_answer, selected
from quern.api.shared.body_budget import release_body
from quern.api.shared.disconnects import ClientDisconnected, unless_disconnected
from quern.api.shared.error_styles import OPENAI_ERRORS
from quern.api.shared.request_turns import wait_until_ended
from quern.api.shared.sse import EventStreamResponse, StreamEncoder, frame
from quern.events import TurnEnded, TurnEvent
from quern.turns.turn import Turn
from quern.types import TurnState


@dataclass(frozen=True)
class TurnAnswer:
    """A turn, and all that its answer is made of. `fields`: the members of it that are wanted.

    `in_pieces`, `in_whole`: what stands in each piece of a stream and in the whole answer besides.
    """

    turn: Turn
    filling: Filling
    fields: Sequence[str] | None
    model: str
    context_length: int
    in_pieces: Mapping[str, Any] = field(default_factory=dict[str, Any])
    in_whole: Mapping[str, Any] = field(default_factory=dict[str, Any])

    async def read(self) -> None:
        """Wait until the text is whole."""
        async with aclosing(self.turn.log.read()) as batches:
            async for batch in batches:
                for event in batch:
                    self._take(event)

    def frames(self, event: TurnEvent) -> bytes:
        """What an event adds to a stream: a piece of the text, or the last frame."""
        piece = self._take(event)
        frames = [frame({**self.in_pieces, **partial_answer(piece)})] if piece else []
        if isinstance(event, TurnEnded):
            completed = event.state is TurnState.COMPLETED
            last = self.final("", event) if completed else OPENAI_ERRORS.stream_error(event.error or event.state)
            frames.append(frame(last))
        return b"".join(frames)

    def final(self, content: str, end: TurnEnded) -> dict[str, Any]:
        """The answer, or a stream's last event."""
        sampling = self.turn.request.sampling
        whole = final_answer(content, self.filling, end, sampling, model=self.model, context_length=self.context_length)
        return selected({**whole, **self.in_whole}, self.fields)

    def _take(self, event: TurnEvent) -> str:
        """What an event adds to the text. What is enough ends the turn."""
        piece = self.filling.take(event, time.monotonic())
        if self.filling.over:
            self.turn.conclude()
        return piece


class AnswerStream(StreamEncoder):
    """Answers side by side, told apart by their index. One that did not complete ends the stream."""

    def __init__(self, answers: Sequence[TurnAnswer]) -> None:
        self._answers = answers

    def encode(self, index: int, event: TurnEvent) -> bytes:
        """What an event adds."""
        if self.broken_off:
            return b""
        self.broken_off = isinstance(event, TurnEnded) and event.state is not TurnState.COMPLETED
        return self._answers[index].frames(event)


async def respond(request: Request, answers: Sequence[TurnAnswer], *, stream: bool) -> Response:
    """The answers to a request: one is an object, several are a list.

    Raises ClientDisconnected where the client went before, TurnNotCompleted for a turn that failed.
    """
    turns = [answer.turn for answer in answers]
    if stream:
        return EventStreamResponse(AnswerStream(answers), [turn.log for turn in turns], turns)
    release_body(request)
    with ExitStack() as readers:
        for turn in turns:
            readers.enter_context(turn.attach())
        if not await unless_disconnected(request.receive, asyncio.gather(*(answer.read() for answer in answers))):
            raise ClientDisconnected
        ends = await wait_until_ended(turns, request)
    whole = [answer.final(answer.filling.text, end) for answer, end in zip(answers, ends, strict=True)]
    return JSONResponse(whole if len(whole) > 1 else whole[0])
