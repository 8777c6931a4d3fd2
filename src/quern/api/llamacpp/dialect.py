"""llama.cpp's dialect. Its clients read OpenAI's errors."""

from __future__ import annotations

from quern.api.llamacpp import completion, facts, infill, tokens
from quern.api.shared.dialect import Dialect
from quern.api.shared.error_styles import OPENAI_ERRORS

LLAMACPP = Dialect(
    (infill.router, completion.router, facts.router, tokens.router),
    errors=OPENAI_ERRORS,
    prefixes=("/infill", "/completion", "/props", "/slots", "/tokenize", "/detokenize", "/apply-template"),
)
