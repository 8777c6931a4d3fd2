"""OpenAI's dialects: Chat Completions, Completions, Responses, Conversations; Mistral's FIM, which answers alike."""

from __future__ import annotations

from quern.api.openai import chat_completions, completions, conversations, fim_completions, responses
from quern.api.shared.dialect import Dialect
from quern.api.shared.error_styles import OPENAI_ERRORS

OPENAI = Dialect(
    (
        chat_completions.router,
        completions.router,
        fim_completions.router,
        responses.router,
        conversations.router,
        conversations.items_router,
    ),
    errors=OPENAI_ERRORS,
    prefixes=("/v1/chat", "/v1/completions", "/v1/engines", "/v1/fim", "/v1/responses", "/v1/conversations"),
)
