"""Whether a prompt and its answer fit the context. Pure arithmetic on counts."""

from __future__ import annotations

from quern.errors import ContextExceeded

LEAST_ANSWER = 256
"""Tokens. Less room than that for a fitted answer means that the prompt fills the context: no answer comes of it."""


def room_for_answer(prompt_tokens: int, max_tokens: int, context_length: int, *, fit: bool) -> int:
    """How many tokens the answer may have. Raises ContextExceeded unless the prompt and the whole answer fit; with
    `fit`, unless a shorter one does.
    """
    room = context_length - prompt_tokens
    needed = min(max_tokens, LEAST_ANSWER) if fit else max_tokens
    if needed > room:
        raise ContextExceeded(prompt_tokens, needed, context_length)
    return min(max_tokens, room)
