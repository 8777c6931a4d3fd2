"""What a turn is made of: from its plan and its prompt to a `Turn`, and to the row that is stored of it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from quern.config import TurnSettings
from quern.engine.base import GenerateRequest, Priority
from quern.records import StorageQuota
from quern.sampling import SamplingParams
from quern.store.generations import packed
from quern.store.items import NewItem
from quern.store.turn_rows import NewTurn
from quern.turns.asked import Asked
from quern.turns.disconnect_policy import Abandonment
from quern.turns.loops import NEVER, LoopLimits
from quern.turns.models import ServedModel
from quern.turns.plan import TurnPlan
from quern.turns.recent import Said
from quern.turns.request import Caller, TurnRequest
from quern.turns.turn import Turn
from quern.types import DisconnectPolicy, Item


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a turn is to do: its plan, its prompt's ids, and those of the answer that are `generated` already.

    `arrived_at`: when it was asked for, in seconds of the monotonic clock. `said`: what the prompt was made of.
    """

    plan: TurnPlan
    prompt: tuple[int, ...]
    said: Said
    arrived_at: float
    conversation_id: str | None = None
    generated: tuple[int, ...] = ()


def live_turn(
    turn_id: str,
    model: ServedModel,
    assignment: Assignment,
    caller: Caller,
    *,
    settings: TurnSettings,
    part: float = 1.0,
) -> Turn:
    """A turn that can run. `part`: of the caller's weight, what counts at this server."""
    plan, who = assignment.plan, caller.principal
    return Turn(
        turn_id,
        model=model,
        principal=who,
        request_id=caller.request_id,
        traceparent=caller.traceparent,
        plan=plan,
        said=assignment.said,
        arrived_at=assignment.arrived_at,
        conversation_id=assignment.conversation_id,
        request=GenerateRequest(
            prompt=assignment.prompt,
            sampling=plan.sampling,
            stop_token_ids=model.codec.stop_token_ids | plan.stop_token_ids,
            priority=plan.priority,
            cache_salt=who.cache_salt,
            grammar=plan.grammar,
            owner=who.owner,
            weight=who.weight * part,
            generated=assignment.generated,
            cache_tag=assignment.conversation_id or turn_id,
        ),
        decoder=plan.decoder(model.codec, turn_id),
        abandonment=_abandonment(plan, settings),
        resumable=settings.resume_hours > 0 or plan.keyed,
        urgent_tokens=settings.urgent_tokens,
        loop_limits=_loop_limits(plan.sampling, settings),
    )


def conversation_of(request: TurnRequest) -> str | None:
    """The conversation of a request's turn; a new one where it begins one."""
    if request.conversation_id is None and request.remember:
        return str(uuid.uuid4())
    return request.conversation_id


def new_row(
    turn: Turn,
    request: TurnRequest,
    items: Sequence[Item],
    *,
    title: str | None = None,
    quota: StorageQuota | None = None,
) -> NewTurn:
    """What is stored of a turn before it runs. `items`: what was said to the model. `title`: of its conversation, where
    that has none. `quota`: its owner's. Packs the prompt, which takes a millisecond for some ten thousand tokens.
    """
    return NewTurn(
        id=turn.id,
        owner=turn.owner,
        request_id=request.caller.request_id,
        model_id=turn.model.name,
        items=tuple(NewItem(str(uuid.uuid4()), item) for item in items),
        sampling=turn.request.sampling,
        created_at=turn.created_at,
        conversation_id=turn.conversation_id,
        new_conversation=request.conversation_id is None,
        plan=turn.plan.dump() if turn.resumable else None,
        prompt=packed(turn.request.prompt) if turn.resumable else b"",
        response=request.response,
        key=request.key,
        fork=request.fork,
        asked=Asked.of(request).dump() if turn.conversation_id is not None else None,
        title=title,
        quota=quota,
    )


def _abandonment(plan: TurnPlan, settings: TurnSettings) -> Abandonment:
    """Who sends a key says that it will ask again. What fills a gap for somebody who types is not asked for again."""
    if plan.disconnect is not None:
        return Abandonment(plan.disconnect, settings.hold_seconds)
    policy = settings.conversation_disconnect if plan.kept else settings.one_shot_disconnect
    if plan.keyed and policy is DisconnectPolicy.CANCEL:
        policy = DisconnectPolicy.HOLD
    asked_again = settings.adopt_retries and plan.priority is not Priority.INTERACTIVE
    return Abandonment(policy, settings.hold_seconds, settings.adopt_seconds if asked_again else 0.0)


def _loop_limits(sampling: SamplingParams, settings: TurnSettings) -> LoopLimits:
    """Who won't have an answer end by itself wants all of its tokens, whatever they are."""
    if sampling.ignore_eos:
        return NEVER
    return LoopLimits(settings.loop_repeats, settings.loop_tokens, settings.loop_period)
