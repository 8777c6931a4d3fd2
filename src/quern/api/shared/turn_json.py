"""A turn as JSON: what is stored of it, and why it was slow."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from quern.api.shared.request_turns import loop_json
from quern.records import TurnRecord
from quern.turns.explanation import FirstUnknown, Place
from quern.turns.recent import Queue
from quern.turns.turn_reports import TurnReport
from quern.types import Timings, Usage


def turn_json(report: TurnReport, *, names_keys: bool) -> dict[str, Any]:
    """A report as JSON; the names of the keys it waited for are for administrators."""
    return {
        **record_json(report.record),
        "priority": report.priority,
        "why": _why(report, names_keys=names_keys),
    }


def record_json(record: TurnRecord) -> dict[str, Any]:
    """A turn as it is stored, as JSON."""
    return {
        "object": "turn",
        "id": record.id,
        "state": record.state.value,
        "finish_reason": record.finish_reason.value if record.finish_reason is not None else None,
        "error": record.error,
        "loop": loop_json(record.loop),
        "model": record.model_id,
        "conversation_id": record.conversation_id,
        "request_id": record.request_id,
        "created_at": _time(record.created_at),
        "started_at": _time(record.started_at),
        "finished_at": _time(record.finished_at),
        "usage": usage_json(record.usage),
        "timings": timings_json(record.timings),
    }


def usage_json(usage: Usage) -> dict[str, int]:
    """A turn's tokens, as JSON."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
    }


def timings_json(timings: Timings) -> dict[str, float]:
    """Where a turn's time went, as JSON."""
    return {
        "queued_ms": round(timings.queued_ms, 1),
        "prefill_ms": round(timings.prefill_ms, 1),
        "decode_ms": round(timings.decode_ms, 1),
    }


def _why(report: TurnReport, *, names_keys: bool) -> dict[str, Any]:
    usage, timings = report.record.usage, report.record.timings
    computed = usage.prompt_tokens - usage.cached_tokens if report.record.started_at is not None else 0
    speed = timings.tokens_per_second(usage.completion_tokens)
    return {
        "remembered": report.remembered,
        "queued": {
            "ms": round(timings.queued_ms, 1),
            "behind": _behind(report.queue, names_keys=names_keys) if report.queue is not None else None,
        },
        "prefill": {
            "ms": round(timings.prefill_ms, 1),
            "computed_tokens": computed,
            "cached_tokens": usage.cached_tokens,
            "tokens_per_second": round(computed / timings.prefill_ms * 1000, 1) if timings.prefill_ms > 0 else None,
            "first_unknown": _first_unknown(report.first_unknown) if report.first_unknown is not None else None,
        },
        "decode": {
            "ms": round(timings.decode_ms, 1),
            "tokens": usage.completion_tokens,
            "tokens_per_second": round(speed, 2) if speed is not None else None,
        },
        "neighbours": {
            "mean_running": round(report.mean_running, 2) if report.mean_running is not None else None,
        },
    }


def _behind(queue: Queue, *, names_keys: bool) -> dict[str, Any]:
    counts = {
        "own": {"running": queue.own_running, "waiting": queue.own_waiting},
        "others": {"running": queue.others_running, "waiting": queue.others_waiting},
    }
    return {**counts, "keys": dict(queue.keys)} if names_keys else counts


def _first_unknown(found: FirstUnknown) -> dict[str, Any]:
    alike = {"turn": found.like, "tokens": found.alike, "parts": _place(found.parts) if found.parts else None}
    return {
        "token": found.token,
        "reason": found.reason.value,
        **_place(found.place),
        "excerpt": found.excerpt,
        "most_alike": alike if found.like is not None else None,
    }


def _place(place: Place) -> dict[str, Any]:
    return {
        "from": place.origin.value,
        "index": place.index,
        "message": place.message,
        "role": place.role,
        "field": place.field,
    }


def _time(at: datetime | None) -> str | None:
    return at.isoformat(timespec="milliseconds") if at is not None else None
