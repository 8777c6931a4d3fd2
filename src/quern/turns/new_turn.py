"""What a turn is made of: from a request and its prepared prompt to a `Turn`, and to the row that is stored of it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace

from quern.config import TurnSettings
from quern.engine.base import GenerateRequest
from quern.grammar.kinds import Grammar
from quern.prompt.codec import TextCodec
from quern.sampling import SamplingParams
from quern.store.items import NewItem
from quern.store.turn_rows import NewTurn
from quern.turns.context_limit import room_for_answer
from quern.turns.decoder import AlignedLogprobs, AnswerDecoder, OutputParser
from quern.turns.disconnect_policy import Abandonment
from quern.turns.loops import NEVER, LoopLimits
from quern.turns.preparation import Prepared, call_parser
from quern.turns.recent import Said
from quern.turns.request import ChatInput, TurnRequest
from quern.turns.turn import Turn
from quern.types import Item


def new_turn(
    request: TurnRequest,
    prepared: Prepared,
    grammar: Grammar | None,
    said: Said,
    *,
    codec: TextCodec,
    settings: TurnSettings,
    context_length: int,
    arrived_at: float,
) -> Turn:
    """The turn that a request asks for, with an id of its own. `arrived_at`: when the request came, in seconds of the
    monotonic clock. Raises ContextExceeded where prompt and answer don't fit the context.
    """
    sampling = request.sampling
    room = room_for_answer(len(prepared.ids), sampling.max_tokens, context_length, fit=request.fit_answer)
    conversation_id = request.conversation_id
    if conversation_id is None and request.remember:
        conversation_id = str(uuid.uuid4())
    default = settings.conversation_disconnect if request.kept else settings.one_shot_disconnect
    turn_id = str(uuid.uuid4())
    return Turn(
        turn_id,
        principal=request.caller.principal,
        request_id=request.caller.request_id,
        traceparent=request.caller.traceparent,
        said=said,
        arrived_at=arrived_at,
        conversation_id=conversation_id,
        request=GenerateRequest(
            prompt=prepared.ids,
            sampling=replace(sampling, max_tokens=room),
            stop_token_ids=codec.stop_token_ids | prepared.stop_token_ids,
            priority=request.priority_asked,
            cache_salt=request.caller.principal.cache_salt,
            grammar=grammar,
            owner=request.caller.owner,
            weight=request.caller.principal.weight,
        ),
        decoder=_decoder(codec, turn_id, request, prepared),
        abandonment=Abandonment(request.caller.disconnect or default, settings.hold_seconds),
        kept=request.kept,
        keeps_events=request.response is not None and request.response.background,
        fitted=room < sampling.max_tokens,
        ignored=prepared.ignored,
        urgent_tokens=settings.urgent_tokens,
        loop_limits=_loop_limits(sampling, settings),
        prefill=request.input.prefill if isinstance(request.input, ChatInput) else "",
    )


def new_row(turn: Turn, request: TurnRequest, items: Sequence[Item], model_id: str) -> NewTurn:
    """What is stored of a turn before it runs. `items`: what was said to the model."""
    return NewTurn(
        id=turn.id,
        owner=turn.owner,
        request_id=request.caller.request_id,
        model_id=model_id,
        items=tuple(NewItem(str(uuid.uuid4()), item) for item in items),
        sampling=turn.request.sampling,
        created_at=turn.created_at,
        conversation_id=turn.conversation_id,
        new_conversation=request.conversation_id is None,
        response=request.response,
    )


def _loop_limits(sampling: SamplingParams, settings: TurnSettings) -> LoopLimits:
    """Who won't have an answer end by itself wants all of its tokens, whatever they are."""
    if sampling.ignore_eos:
        return NEVER
    return LoopLimits(settings.loop_repeats, settings.loop_tokens, settings.loop_period)


def _decoder(codec: TextCodec, turn_id: str, request: TurnRequest, prepared: Prepared) -> AnswerDecoder:
    given = request.input
    parser = call_parser(codec, given.tool_use, turn_id) if isinstance(given, ChatInput) else None
    wanted = request.sampling.logprobs is not None
    return AnswerDecoder(
        codec.incremental_text(request.stops),
        OutputParser(parser, single_call=prepared.single_call, repeated=prepared.repeated),
        AlignedLogprobs(codec.tokenizer.token_bytes) if wanted else None,
        stored=request.kept,
    )
