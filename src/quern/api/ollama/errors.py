"""How Ollama tells errors: `{"error": "a sentence"}`.

Source: "Errors" in Ollama's API documentation.
"""

from __future__ import annotations

from typing import Any

from quern.api.shared.error_styles import OPENAI_ERRORS
from quern.api.shared.errors import ErrorKind, ErrorStyle, Failure


class OllamaErrors(ErrorStyle):
    """Ollama's statuses are those of OpenAI's dialects, as far as it has them."""

    def status(self, kind: ErrorKind) -> int:
        """The HTTP status for a kind."""
        return OPENAI_ERRORS.status(kind)

    def body(self, failure: Failure) -> dict[str, Any]:
        """The answer's JSON, or the line that ends a stream."""
        return {"error": failure.message}


OLLAMA_ERRORS = OllamaErrors()
