"""A client for Quern's own endpoints."""

from __future__ import annotations

from quern.client.answer import AnswerStream
from quern.client.client import GenerationOptions, QuernClient, ServedModel, ServerState

__all__ = ["AnswerStream", "GenerationOptions", "QuernClient", "ServedModel", "ServerState"]
