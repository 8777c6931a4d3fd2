"""A filling in llama.cpp's shape. Pure.

Source: the response of "POST /completion" in llama.cpp's tools/server/README.md. `tokens_cached` is what the README
calls it: the part of the prompt that was computed before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

from quern.api.llamacpp.filling import Filling
from quern.api.llamacpp.generation_fields import llamacpp_name
from quern.events import TurnEnded
from quern.sampling import SamplingParams
from quern.types import FinishReason, Timings, Usage


def partial_answer(content: str) -> dict[str, Any]:
    """A piece of a stream."""
    return {"content": content, "stop": False}


def final_answer(
    content: str, filling: Filling, end: TurnEnded, sampling: SamplingParams, *, model: str, context_length: int
) -> dict[str, Any]:
    """The whole answer; at the end of a stream with an empty `content`."""
    predicted = end.usage.completion_tokens if filling.wanted else 0
    return {
        "index": 0,
        "content": content,
        "stop": True,
        "model": model,
        "tokens_predicted": predicted,
        "tokens_evaluated": end.usage.prompt_tokens,
        "tokens_cached": end.usage.cached_tokens,
        "generation_settings": {"n_ctx": context_length, **settings_json(sampling)},
        "has_new_line": filling.has_new_line,
        "truncated": False,
        "stop_type": stop_type(filling, end),
        "stopping_word": end.stop or "",
        "timings": timings_json(end.usage, end.timings, predicted),
    }


def stop_type(filling: Filling, end: TurnEnded) -> str:
    """Why it ended: `word`, `limit` (of tokens, time, indentation or repeats), or `eos` where the model ended it."""
    if filling.over or end.loop is not None or end.finish_reason is FinishReason.LENGTH:
        return "limit"
    return "eos" if end.stop is None else "word"


def settings_json(sampling: SamplingParams) -> dict[str, Any]:
    """How tokens were drawn, in llama.cpp's names."""
    settings = {name: value for name, value in asdict(sampling).items() if name not in {"logit_bias", "logprobs"}}
    return {llamacpp_name(name): -1 if value is None else value for name, value in settings.items()}


def timings_json(usage: Usage, timings: Timings, predicted: int) -> dict[str, Any]:
    """Counts and speeds; `prompt_n` leaves out what was cached, and what can't be told is 0."""
    return {
        "cache_n": usage.cached_tokens,
        **_speed("prompt", usage.prompt_tokens - usage.cached_tokens, timings.prefill_ms),
        **_speed("predicted", predicted, timings.decode_ms),
    }


def selected(answer: dict[str, Any], paths: Sequence[str] | None) -> dict[str, Any]:
    """The members that `response_fields` names, each under its whole path; all of them where it is not sent."""
    if not paths:
        return answer
    found = ((path, _member(answer, path)) for path in paths)
    return {path: value for path, value in found if value is not None}


def _speed(name: str, tokens: int, milliseconds: float) -> dict[str, Any]:
    return {
        f"{name}_n": tokens,
        f"{name}_ms": milliseconds,
        f"{name}_per_token_ms": milliseconds / tokens if tokens else 0.0,
        f"{name}_per_second": tokens / milliseconds * 1000 if milliseconds > 0 else 0.0,
    }


def _member(answer: dict[str, Any], path: str) -> Any:
    value: Any = answer
    for name in path.split("/"):
        members = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        value = members.get(name)
    return value
