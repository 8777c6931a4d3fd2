"""Turns without a service around them."""

from __future__ import annotations

import uuid

from quern.access.principal import Principal
from quern.engine.base import GenerateRequest, Priority
from quern.engine.fake import FakeEngine
from quern.prompt.codec import TextCodec
from quern.prompt.tools.protocols import AnswerParser
from quern.records import KeyRole
from quern.sampling import SamplingParams
from quern.turns.decoder import AlignedLogprobs, AnswerDecoder, OutputParser
from quern.turns.disconnect_policy import Abandonment
from quern.turns.models import ServedModel
from quern.turns.plan import TurnPlan
from quern.turns.recent import Said
from quern.turns.request import TokenInput
from quern.turns.turn import Turn
from quern.types import DisconnectPolicy

BYTES = TextCodec.builtin()
MODEL = ServedModel("fake", FakeEngine(parallel=1, vocabulary_size=BYTES.vocabulary_size), BYTES)
ANN = Principal("ann", "ann", KeyRole.USER)


def live_turn(
    *,
    conversation_id: str | None = None,
    priority: Priority = Priority.NORMAL,
    parser: AnswerParser | None = None,
    single_call: bool = False,
    stops: tuple[str, ...] = (),
    logprobs: bool = False,
    max_tokens: int = 100,
    kept: bool = True,
) -> Turn:
    """A turn whose tokens are bytes."""
    turn_id = str(uuid.uuid4())
    sampling = SamplingParams(max_tokens=max_tokens)
    return Turn(
        turn_id,
        model=MODEL,
        principal=ANN,
        request_id="a-request",
        plan=TurnPlan(sampling, kept=kept),
        said=Said((), TokenInput((1, 2, 3))),
        arrived_at=0.0,
        conversation_id=conversation_id,
        request=GenerateRequest((1, 2, 3), sampling, BYTES.stop_token_ids, priority=priority),
        decoder=AnswerDecoder(
            BYTES.incremental_text(stops),
            OutputParser(parser, single_call=single_call),
            AlignedLogprobs(BYTES.tokenizer.token_bytes) if logprobs else None,
            stored=kept,
        ),
        abandonment=Abandonment(DisconnectPolicy.FINISH, 0),
    )
