"""The routes of conversations that no vendor has, next to OpenAI's."""

from __future__ import annotations

from quern.api.conversations import branches, search, transfer
from quern.api.shared.dialect import Dialect
from quern.api.shared.error_styles import OPENAI_ERRORS

CONVERSATIONS = Dialect(
    (search.router, transfer.router, branches.router),
    errors=OPENAI_ERRORS,
    prefixes=("/v1/conversations",),
    streamed_paths=frozenset({"/v1/conversations/import"}),
)
