"""Token counts as OpenAI's dialects tell them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from quern.types import Usage


def completion_usage(usages: Iterable[Usage]) -> dict[str, Any]:
    """Of all choices of one prompt: the prompt counts once, its cached part as the first choice found it."""
    counted = list(usages)
    prompt = counted[0].prompt_tokens
    completion = sum(usage.completion_tokens for usage in counted)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": counted[0].cached_tokens},
    }
