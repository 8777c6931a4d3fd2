"""Ollama's dialect."""

from __future__ import annotations

from quern.api.ollama import catalog, embedding, generation
from quern.api.ollama.errors import OLLAMA_ERRORS
from quern.api.shared.dialect import Dialect

OLLAMA = Dialect((generation.router, embedding.router, catalog.router), errors=OLLAMA_ERRORS, prefixes=("/api/",))
