"""A response as JSON. Pure: who it is and how it ended in, JSON out.

Source of the shape: "The response object" in OpenAI's API reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from quern.api.openai.compaction import sealed
from quern.api.openai.items import item_json, public_response_id
from quern.events import TurnEnded
from quern.records import ResponseRecord
from quern.turns.identity import item_id
from quern.turns.turn import Turn
from quern.types import FinishReason, Message, TurnState, Usage

LISTED = (
    "id",
    "object",
    "created_at",
    "completed_at",
    "status",
    "background",
    "error",
    "incomplete_details",
    "model",
    "previous_response_id",
    "conversation",
    "usage",
)


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """What of a response never changes. `settings`: what its caller asked for, as `ResponseRequest.settings` has it."""

    turn_id: str
    created_at: datetime
    model: str
    conversation_id: str | None
    previous_id: str | None
    background: bool
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, record: ResponseRecord) -> Self:
        """A stored response's."""
        turn = record.turn
        return cls(
            turn.id,
            turn.created_at,
            turn.model_id,
            turn.conversation_id,
            record.previous_id,
            record.background,
            record.body,
        )


def end_status(end: TurnEnded) -> str:
    """How a turn's end is told."""
    match end.state:
        case TurnState.COMPLETED:
            return "incomplete" if end.finish_reason is FinishReason.LENGTH else "completed"
        case TurnState.CANCELLED:
            return "cancelled"
        case _:
            return "failed"


def response_json(
    head: ResponseHead, status: str, output: Sequence[dict[str, Any]], end: TurnEnded | None = None
) -> dict[str, Any]:
    """The response as it is now, or as it ended."""
    return {
        "id": public_response_id(head.turn_id),
        "object": "response",
        "created_at": int(head.created_at.timestamp()),
        "completed_at": _completed_at(head, end) if end is not None and status == "completed" else None,
        "status": status,
        "background": head.background,
        "error": _error(end) if end is not None and status == "failed" else None,
        "incomplete_details": _incomplete_details(end) if end is not None and status == "incomplete" else None,
        "model": head.model,
        "output": list(output),
        "previous_response_id": public_response_id(head.previous_id) if head.previous_id is not None else None,
        "conversation": {"id": head.conversation_id} if head.conversation_id is not None else None,
        "usage": response_usage(end.usage) if end is not None else None,
        "truncation": "disabled",
        "top_logprobs": 0,
        "service_tier": "default",
        "reasoning": None,
        "max_tool_calls": None,
        "prompt_cache_key": None,
        "safety_identifier": None,
        "user": None,
        **head.settings,
    }


def listed_json(record: ResponseRecord) -> dict[str, Any]:
    """A stored response in a list: all of it but what was said and how it was asked."""
    head, turn = ResponseHead.of(record), record.turn
    end = turn.end() if turn.state.terminal else None
    running = "queued" if turn.state is TurnState.QUEUED and head.background else "in_progress"
    whole = response_json(head, end_status(end) if end is not None else running, (), end)
    return {name: value for name, value in whole.items() if name in LISTED} | {
        "metadata": head.settings.get("metadata")
    }


def compacted_json(turn: Turn, end: TurnEnded, said: Sequence[Message]) -> dict[str, Any]:
    """What the user said, then the summary that a turn wrote."""
    items = [item_json(item_id(turn.id, index), message) for index, message in enumerate(said)]
    summary = {"id": f"cmp_{UUID(turn.id).hex}", "type": "compaction", "encrypted_content": sealed(turn.answer().text)}
    return {
        "id": public_response_id(turn.id),
        "object": "response.compaction",
        "created_at": int(turn.created_at.timestamp()),
        "output": [*items, summary],
        "usage": response_usage(end.usage),
    }


def response_usage(usage: Usage) -> dict[str, Any] | None:
    """Token counts; None where nothing was counted, as the server died before."""
    if not usage.prompt_tokens:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _error(end: TurnEnded) -> dict[str, Any]:
    return {"code": "server_error", "message": end.error or end.state.value}


def _incomplete_details(end: TurnEnded) -> dict[str, Any] | None:
    """OpenAI has no reason for a call that a stop text or the model itself cut off. A loop that left no whole answer is
    told as the limit that it met, as in the other dialects: clients take an answer without a reason for a whole one.
    """
    return {"reason": "max_output_tokens"} if end.finish_reason is FinishReason.LENGTH else None


def _completed_at(head: ResponseHead, end: TurnEnded) -> int:
    """In seconds. From what is stored with the turn, so that it is the same whenever it is asked for."""
    timings = end.timings
    took = timings.queued_ms + timings.prefill_ms + timings.decode_ms
    return int(head.created_at.timestamp() + took / 1000)
