"""OpenAI's dialects: Chat Completions, Completions, Responses, Conversations."""

from __future__ import annotations

from quern.api.openai import chat_completions, completions, conversation_items, conversations, responses
from quern.api.shared.dialect import Dialect
from quern.api.shared.error_styles import OPENAI_ERRORS

OPENAI = Dialect(
    tuple(room.router for room in (chat_completions, completions, responses, conversations, conversation_items)),
    errors=OPENAI_ERRORS,
    prefixes=("/v1/chat", "/v1/completions", "/v1/responses", "/v1/conversations"),
)
